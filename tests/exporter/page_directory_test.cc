// When a process that nobody can look for is taken for ended, by clocks that are set and clocks that are not.
#include "exporter/page_directory.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "tests/exporter/clocks_ahead.h"
#include "tests/exporter/made_page.h"

namespace hakmem::exporter {

time_t real_ahead = 0;
time_t boot_ahead = 0;

}  // namespace hakmem::exporter

// In place of libc's, for the exporter and for libraries.
extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  auto result = static_cast<int>(syscall(SYS_clock_gettime, clock, now));
  if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += hakmem::exporter::real_ahead;
  if (result == 0 && clock == CLOCK_BOOTTIME) now->tv_sec += hakmem::exporter::boot_ahead;
  return result;
}

namespace hakmem::exporter {
namespace {

constexpr time_t kHour = 3600;
constexpr time_t kMonth = 30 * 24 * kHour;

class Silence : public ::testing::Test {
 protected:
  Silence() {
    char name[] = "/dev/shm/hakmem-test.XXXXXX";
    folder_ = mkdtemp(name);
    write();
  }
  ~Silence() override {
    std::filesystem::remove_all(folder_);
    real_ahead = boot_ahead = 0;
  }

  void write() const { page_.write(folder_ + "/hakmem.0.1001.1"); }
  static size_t shown(PageDirectory& directory) {
    directory.refresh();
    return directory.pages().size();
  }

  std::string folder_;
  // Without /proc a process does not know its namespace.
  MadePage page_{{0, 1, 0, 1001, 0, "made"}};
};

TEST_F(Silence, LastsADay) {
  PageDirectory directory(folder_);
  EXPECT_EQ(shown(directory), 1u);
  boot_ahead += 23 * kHour;
  EXPECT_EQ(shown(directory), 1u);
  page_.refill(0, 1);
  write();
  EXPECT_EQ(shown(directory), 1u);
  boot_ahead += 23 * kHour;
  EXPECT_EQ(shown(directory), 1u) << "its figures had changed";
  boot_ahead += 2 * kHour;
  EXPECT_EQ(shown(directory), 0u);
}

TEST_F(Silence, IsNotEndedByTheClockThatIsSet) {
  PageDirectory directory(folder_);
  EXPECT_EQ(shown(directory), 1u);
  for (time_t ahead : {kMonth, -kMonth}) {
    real_ahead = ahead;
    EXPECT_EQ(shown(directory), 1u) << ahead;
  }
  // Nor does a page that was made in what is now the future live for a month.
  PageDirectory later(folder_);
  EXPECT_EQ(shown(later), 1u);
  boot_ahead = 25 * kHour;
  EXPECT_EQ(shown(directory), 0u);
  EXPECT_EQ(shown(later), 0u);
}

}  // namespace
}  // namespace hakmem::exporter
