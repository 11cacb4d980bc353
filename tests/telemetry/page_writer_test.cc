// The stats page's writer: late, safe, and no count lost.
#include "telemetry/page_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cmath>
#include <thread>

#include "allocator/metrics/counters.h"
#include "telemetry/snapshot.h"
#include "telemetry/transitions.h"
#include "tests/telemetry/fake_heap.h"
#include "tests/telemetry/in_child.h"

namespace hakmem::telemetry {
namespace {

using metrics::Metric;
using metrics::RefillSource;

Snapshot read_file(const std::string& path) {
  Snapshot snapshot;
  int fd = open_page(path);
  EXPECT_GE(fd, 0) << path;
  EXPECT_TRUE(read_snapshot(fd, &snapshot).good());
  close(fd);
  return snapshot;
}

TEST(PageWriter, IsBusyAfterOneMebibyteOfRefills) {
  ChildResult child = in_child({}, [] {
    constexpr uint32_t kClass = 63;  // 1,024 bytes
    metrics::count<Metric::kRefillObjects>(0, kClass, RefillSource::FreshCarve, 1023);
    EXPECT_FALSE(counters_look_busy());
    metrics::count<Metric::kRefillObjects>(0, kClass, RefillSource::OwnFrees, 1);
    EXPECT_TRUE(counters_look_busy());
  });
  EXPECT_EQ(child.status, 0);
}

TEST(PageWriter, IsBusyAfterFourLargeAllocations) {
  ChildResult child = in_child({}, [] {
    metrics::count<Metric::kAllocations>(0, metrics::kLargeClass, uint64_t{3});
    EXPECT_FALSE(counters_look_busy());
    metrics::count<Metric::kAllocations>(0, metrics::kHugeClass, uint64_t{1});
    EXPECT_TRUE(counters_look_busy());
  });
  EXPECT_EQ(child.status, 0);
}

TEST(PageWriter, TheFileHasTheIdentityOfTheProcessAndItsCounters) {
  TemporaryFolder folder;
  ChildResult child = in_child({{"HAKMEM_PAGES", folder.path()}}, [&] {
    metrics::count<Metric::kHugeAllocations>(0, 7);
    create_page(true, false);
    ASSERT_EQ(page_home(), PageHome::File);
    metrics::count<Metric::kHugeAllocations>(0, 5);
    struct stat status {};
    ASSERT_EQ(stat(folder.only_file().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    EXPECT_EQ(status.st_size, static_cast<off_t>(page_bytes(kFirstShards)));
    EXPECT_GE(status.st_blocks * 512, status.st_size) << "blocks must be allocated up front";

    Snapshot snapshot = read_file(folder.only_file());
    EXPECT_EQ(snapshot.counter(Metric::kHugeAllocations, 0), 12u);
    EXPECT_EQ(snapshot.identity.pid, static_cast<uint32_t>(getpid()));
    EXPECT_NE(snapshot.identity.start_time, 0u);
    EXPECT_NE(snapshot.identity.nonce, 0u);
    EXPECT_EQ(snapshot.comm, "telemetry_tests");
    EXPECT_EQ(snapshot.class_bytes[3], 64u);
    EXPECT_TRUE(std::isnan(snapshot.gauge(Metric::kLiveBytes, 0))) << "nothing was measured yet";
    std::string name = kPagePrefix + std::to_string(snapshot.identity.pid_namespace) + "." + std::to_string(getpid()) +
                       "." + std::to_string(snapshot.identity.start_time);
    EXPECT_EQ(std::filesystem::path(folder.only_file()).filename(), name);
    remove_page();
    EXPECT_EQ(folder.only_file(), "");
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.error_text, "");
}

TEST(PageWriter, NoCountIsLostWhileThreadsCountAndThePageIsMadeAndGrows) {
  TemporaryFolder folder;
  ChildResult child = in_child({{"HAKMEM_PAGES", folder.path()}}, [&] {
    constexpr uint32_t kThreads = 8;
    constexpr uint64_t kCounts = 200'000;
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (uint32_t number = 1; number <= kThreads; ++number)
      threads.emplace_back([number] {
        for (uint64_t i = 0; i < kCounts; ++i) metrics::count<Metric::kRemoteFrees>(number);
      });
    create_page(true, false);
    std::thread reader([&] {
      uint64_t last = 0;
      while (!stop.load()) {
        uint64_t now = read_file(folder.only_file()).counter(Metric::kRemoteFrees, 0);
        EXPECT_GE(now, last) << "a counter fell";
        last = now;
      }
    });
    for (uint32_t wanted = 4; wanted <= 32; wanted *= 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      grow_page(wanted);
      drain_initial_shard();
    }
    for (std::thread& thread : threads) thread.join();
    stop.store(true);
    reader.join();
    drain_initial_shard();
    EXPECT_EQ(page()->shard_count.load(), 32u);
    EXPECT_EQ(current_page_bytes(), page_bytes(32));
    EXPECT_EQ(read_file(folder.only_file()).counter(Metric::kRemoteFrees, 0), kThreads * kCounts);
    Snapshot from_memory;
    ASSERT_TRUE(read_snapshot(page(), current_page_bytes(), &from_memory).good());
    EXPECT_EQ(from_memory.counter(Metric::kRemoteFrees, 0), kThreads * kCounts);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(PageWriter, AProgramStartedByExecReplacesThePageOfTheOneBefore) {
  TemporaryFolder folder;
  ChildResult child = in_child({{"HAKMEM_PAGES", folder.path()}}, [&] {
    create_page(true, false);
    metrics::count<Metric::kHugeFrees>(0, 3);
    uint64_t nonce = page()->identity.nonce;
    // What exec leaves behind: the file, and a fresh writer.
    std::string file = folder.only_file();
    abandon_page();
    create_page(true, false);
    EXPECT_EQ(folder.only_file(), file);
    EXPECT_EQ(read_file(file).counter(Metric::kHugeFrees, 0), 0u);
    EXPECT_NE(read_file(file).identity.nonce, nonce);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(PageWriter, AForkedChildNeverWritesIntoItsParentsPage) {
  TemporaryFolder folder;
  ChildResult child = in_child({{"HAKMEM_PAGES", folder.path()}}, [&] {
    prepare_fork_detection();
    create_page(true, false);
    std::string parents = folder.only_file();
    metrics::count<Metric::kHugeFrees>(0, 2);
    pid_t forked = fork();
    if (forked == 0) {
      on_fork_child();
      metrics::count<Metric::kHugeFrees>(0, 100);
      bool good = page_home() == PageHome::None && page() == nullptr &&
                  metrics::counter_sink.shards.load() == metrics::initial_shard &&
                  metrics::initial_shard[metrics::kFirstSlot<Metric::kHugeFrees>].load() == 100;
      create_page(true, false);
      good = good && page_home() == PageHome::File && page()->identity.pid == static_cast<uint32_t>(getpid());
      remove_page();
      _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(forked, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(read_file(parents).counter(Metric::kHugeFrees, 0), 2u);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(PageWriter, AChildThatBypassedTheForkHandlersIsFoundOut) {
  TemporaryFolder folder;
  ChildResult child = in_child({{"HAKMEM_PAGES", folder.path()}}, [&] {
    prepare_fork_detection();
    create_page(true, false);
    EXPECT_FALSE(forked_unnoticed());
    metrics::ThreadCounters<true> counters;
    counters.follow_sink(0);
    counters.add<Metric::kHugeFrees>(0, 2);
    pid_t forked = fork();  // the test has no handler, so that this is as good as _Fork
    if (forked == 0) {
      bool noticed = forked_unnoticed();
      on_transition(0);
      noticed = noticed && !forked_unnoticed() && page_home() == PageHome::None;
      counters.add<Metric::kHugeFrees>(0, 5);  // where a thread cache counts until it looks
      counters.follow_sink(0);
      counters.add<Metric::kHugeFrees>(0, 7);
      _exit(noticed && metrics::initial_shard[metrics::kFirstSlot<Metric::kHugeFrees>].load() == 7 ? 0 : 1);
    }
    int status = -1;
    waitpid(forked, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(read_file(folder.only_file()).counter(Metric::kHugeFrees, 0), 2u);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(PageWriter, AMissingFolderGivesOneLineWhereThePageWasAskedFor) {
  Environment environment{{"HAKMEM_PAGES", "/nonexistent/pages"}};
  ChildResult asked = in_child(environment, [] {
    create_page(true, false);
    EXPECT_EQ(page_home(), PageHome::Refused);
    metrics::count<Metric::kHugeFrees>(0);  // counts on, in private memory
    EXPECT_EQ(metrics::initial_shard[metrics::kFirstSlot<Metric::kHugeFrees>].load(), 1u);
  });
  EXPECT_EQ(asked.status, 0);
  EXPECT_EQ(asked.error_text,
            "hakmem: no stats page in /nonexistent/pages: it does not exist; hakmem-exporter does not see this "
            "process\n");
  ChildResult silent = in_child(environment, [] { create_page(false, false); });
  EXPECT_EQ(silent.error_text, "");
}

TEST(PageWriter, WithoutAFileTheEndpointGetsAPrivatePage) {
  ChildResult child = in_child({{"HAKMEM_PAGES", "/nonexistent/pages"}}, [] {
    metrics::count<Metric::kHugeFrees>(0, 4);
    create_page(true, true);
    EXPECT_EQ(page_home(), PageHome::Private);
    Snapshot snapshot;
    ASSERT_TRUE(read_snapshot(page(), current_page_bytes(), &snapshot).good());
    EXPECT_EQ(snapshot.counter(Metric::kHugeFrees, 0), 4u);
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_THAT(child.error_text, testing::HasSubstr("the endpoint works, hakmem-exporter does not see this process\n"));
}

// A small tmpfs, as /dev/shm of a container is. Needs the right to mount.
class SmallFolder : public testing::Test {
 protected:
  void SetUp() override {
    if (mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, "size=4m") != 0)
      GTEST_SKIP() << "mounting a tmpfs is not permitted here";
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }
  void fill(size_t bytes) const {
    int fd = open((folder_.path() + "/database").c_str(), O_CREAT | O_RDWR, 0600);
    ASSERT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(bytes)), 0);
    close(fd);
  }

  TemporaryFolder folder_;
  bool mounted_ = false;
};

TEST_F(SmallFolder, PagesTakeAtMostFivePercentOfIt) {
  constexpr size_t kPages = (4 << 20) / 20 / page_bytes(kFirstShards);
  for (size_t pid = 1; pid <= kPages; ++pid) {
    int fd = open((folder_.path() + "/hakmem.1." + std::to_string(pid) + ".1").c_str(), O_CREAT | O_RDWR, 0600);
    ASSERT_EQ(posix_fallocate(fd, 0, page_bytes(kFirstShards)), 0);
    close(fd);
  }
  ChildResult child = in_child({{"HAKMEM_PAGES", folder_.path()}}, [] {
    create_page(true, false);
    EXPECT_EQ(page_home(), PageHome::Refused);
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_THAT(child.error_text, testing::HasSubstr("too little of it is free"));
  unlink((folder_.path() + "/hakmem.1.1.1").c_str());
  child = in_child({{"HAKMEM_PAGES", folder_.path()}}, [] {
    create_page(true, false);
    EXPECT_EQ(page_home(), PageHome::File);
    remove_page();
  });
  EXPECT_EQ(child.status, 0);
}

TEST_F(SmallFolder, AQuarterOfItStaysFree) {
  fill(3 << 20);
  ChildResult child = in_child({{"HAKMEM_PAGES", folder_.path()}}, [] {
    create_page(true, false);
    EXPECT_EQ(page_home(), PageHome::Refused);
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_THAT(child.error_text, testing::HasSubstr("too little of it is free"));
}

}  // namespace
}  // namespace hakmem::telemetry
