// System calls that fail for a moment: none makes the exporter count a process twice, lose what it counted, or show it
// under a wrong label for good.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "exporter/page_directory.h"
#include "telemetry/system.h"
#include "tests/exporter/clocks_ahead.h"
#include "tests/exporter/made_page.h"

namespace {

// The call of this name, and of this number from now on, fails, or all do; -1: none does.
struct Fault {
  std::string_view call;
  int left = -1;
  int error = 0;
  bool lasts = false;
};
Fault fault;

// What is read as the control group of every process.
std::string cgroup_file;

bool fails(std::string_view call) {
  if (call != fault.call || fault.left < 0) return false;
  if (!fault.lasts && fault.left-- != 0) return false;
  errno = fault.error;
  return true;
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

// In place of libc's, for the exporter.
extern "C" {
int open(const char* path, int flags, ...) {
  if (fails("open")) return -1;
  bool is_cgroup = !cgroup_file.empty() && std::string_view(path).ends_with("/cgroup");
  return openat(AT_FDCWD, is_cgroup ? cgroup_file.c_str() : path, flags, 0600);
}
DIR* opendir(const char* path) {
  static auto* function = next<DIR*(const char*)>("opendir");
  return fails("opendir") ? nullptr : function(path);
}
dirent* readdir(DIR* directory) {
  static auto* function = next<dirent*(DIR*)>("readdir");
  return fails("readdir") ? nullptr : function(directory);
}
int fstat(int fd, struct stat* status) noexcept {
  static auto* function = next<int(int, struct stat*)>("fstat");
  return fails("fstat") ? -1 : function(fd, status);
}
int fstatat(int directory, const char* path, struct stat* status, int flags) noexcept {
  static auto* function = next<int(int, const char*, struct stat*, int)>("fstatat");
  return fails("fstatat") ? -1 : function(directory, path, status, flags);
}
ssize_t read(int fd, void* bytes, size_t count) {
  static auto* function = next<ssize_t(int, void*, size_t)>("read");
  return fails("read") ? -1 : function(fd, bytes, count);
}
ssize_t pread(int fd, void* bytes, size_t count, off_t offset) {
  static auto* function = next<ssize_t(int, void*, size_t, off_t)>("pread");
  return fails("pread") ? -1 : function(fd, bytes, count, offset);
}
}

namespace hakmem::exporter {
namespace {

constexpr uint64_t kOfLiving = 7;
constexpr uint64_t kMeanwhile = 4;
constexpr uint64_t kOfNext = 3;
constexpr uint64_t kOfEnded = 5;
constexpr uint32_t kEnded = 2;  // processes
constexpr uint64_t kAll = kOfLiving + kEnded * kOfEnded;
constexpr uint32_t kNoPid = 1 << 30;

class PageFaults : public ::testing::Test {
 protected:
  PageFaults() {
    char name[] = "/dev/shm/hakmem-test.XXXXXX";
    folder_ = mkdtemp(name);
    cgroup_file = folder_ + "/cgroup";
    std::ofstream(cgroup_file) << "0::/system.slice/made.service\n";
    telemetry::ProcessStat stat{};
    telemetry::read_own_stat(&stat);
    living_.pid = static_cast<uint32_t>(getpid());
    living_.start_time = stat.start_time;
    living_.pid_namespace = telemetry::own_pid_namespace();
    write(living_, kOfLiving);
  }
  ~PageFaults() override {
    fault = {};
    boot_ahead = 0;
    cgroup_file.clear();
    std::filesystem::remove_all(folder_);
  }

  std::string path_of(const telemetry::Identity& identity) const {
    return folder_ + "/hakmem." + std::to_string(identity.pid_namespace) + "." + std::to_string(identity.pid) + "." +
           std::to_string(identity.start_time);
  }
  void write(telemetry::Identity identity, uint64_t refills) const {
    strcpy(identity.comm, "made");
    MadePage page(identity);
    page.refill(0, refills);
    page.write(path_of(identity));
  }
  // In a file of its own, as after exec.
  void write_anew(const telemetry::Identity& identity, uint64_t refills) const {
    std::filesystem::remove(path_of(identity));
    write(identity, refills);
  }
  // Pages of processes that have ended, which a directory removes when it has counted them.
  void write_ended() const {
    for (uint32_t i = 0; i < kEnded; ++i) {
      telemetry::Identity identity = living_;
      identity.pid = kNoPid + i;
      write(identity, kOfEnded);
    }
  }

  static uint64_t refills(const telemetry::Snapshot& snapshot) {
    return snapshot.counter(metrics::Metric::kRefillObjects, 0);
  }
  static uint64_t counted(const PageDirectory& directory) {
    uint64_t sum = 0;
    for (const auto& [name, page] : directory.pages())
      if (page.good) sum += refills(page.snapshot);
    for (const auto& [group, totals] : directory.groups(0)) sum += refills(totals);
    return sum;
  }

  std::string folder_;
  telemetry::Identity living_{};
};

// Every call of each kind in turn, in the first look at the pages and in a later one.
TEST_F(PageFaults, CountNothingTwiceAndLoseNothing) {
  for (std::string_view call : {"open", "opendir", "readdir", "fstat", "fstatat", "read", "pread"}) {
    for (int error : {EIO, ENOMEM}) {
      for (int looks : {0, 1, 2}) {
        int number = 0;
        for (bool was_reached = true; was_reached && number < 1000; ++number) {
          SCOPED_TRACE(std::string(call) + " " + std::to_string(number) + " after " + std::to_string(looks) +
                       " looks, error " + std::to_string(error));
          write_ended();
          PageDirectory directory(folder_);
          for (int look = 0; look < looks; ++look) directory.refresh();
          fault = {call, number, error};
          directory.refresh();
          was_reached = fault.left < 0;
          fault = {};
          uint64_t meanwhile = counted(directory);
          ASSERT_LE(meanwhile, kAll);
          ASSERT_TRUE(looks == 0 || meanwhile == kAll) << meanwhile;
          for (int look = 0; look < 2; ++look) {
            directory.refresh();
            ASSERT_EQ(counted(directory), kAll);
          }
          for (const auto& [group, totals] : directory.groups(0)) ASSERT_EQ(group.home.unit, "made.service");
          ASSERT_EQ(directory.pages().size(), 1u);
        }
        ASSERT_GT(number, 1) << call << " is not called";
      }
    }
  }
}

TEST_F(PageFaults, LoseNothingOfAProgramThatCalledExec) {
  constexpr uint64_t kBoth = kOfLiving + kMeanwhile + kOfNext;
  for (std::string_view call : {"open", "fstat", "fstatat", "read", "pread"}) {
    for (bool was_read : {false, true}) {
      int number = 0;
      for (bool was_reached = true; was_reached && number < 1000; ++number) {
        SCOPED_TRACE(std::string(call) + " " + std::to_string(number) + (was_read ? " after a look" : ""));
        write_anew(living_, kOfLiving);
        PageDirectory directory(folder_);
        if (!was_read) fault = {"pread", 0, EIO};
        directory.refresh();
        fault = {};
        uint64_t known = counted(directory);
        ASSERT_EQ(known, was_read ? kOfLiving : 0);
        write(living_, kOfLiving + kMeanwhile);
        write_anew(living_, kOfNext);
        fault = {call, number, EIO};
        directory.refresh();
        was_reached = fault.left < 0;
        fault = {};
        ASSERT_GE(counted(directory), known);
        for (int look = 0; look < 2; ++look) {
          directory.refresh();
          ASSERT_EQ(counted(directory), kBoth);
        }
        ASSERT_EQ(directory.pages().size(), 1u);
      }
      ASSERT_GT(number, 1) << call << " is not called";
    }
  }
}

TEST_F(PageFaults, KeepAPageOfAnUnknownProcessForADay) {
  std::filesystem::remove(path_of(living_));
  telemetry::Identity unknown = living_;
  unknown.pid = kNoPid;
  unknown.pid_namespace = 0;  // it was without /proc
  for (bool was_read : {false, true}) {
    SCOPED_TRACE(was_read);
    boot_ahead = 0;
    write_anew(unknown, kOfEnded);
    PageDirectory directory(folder_);
    if (was_read) directory.refresh();
    fault = {"pread", 0, EIO, true};
    directory.refresh();
    auto look_often = [&] {
      for (uint32_t look = 0; look <= kTriesAfterEnd; ++look) directory.refresh();
    };
    boot_ahead = static_cast<time_t>(kSilentSeconds) - 60;
    look_often();
    EXPECT_EQ(directory.pages().size(), 1u);
    boot_ahead += 120;
    look_often();
    EXPECT_EQ(directory.pages().size(), 0u);
    fault = {};
    directory.refresh();
    EXPECT_EQ(counted(directory), was_read ? kOfEnded : 0);
  }
}

}  // namespace
}  // namespace hakmem::exporter
