// Reading stats pages that were written by anybody.
#include "telemetry/snapshot.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <random>
#include <thread>

#include "tests/telemetry/in_child.h"

namespace hakmem::telemetry {
namespace {

using metrics::Metric;
using metrics::PageProblem;

// A page in memory that can be written to a file.
class MadePage {
 public:
  explicit MadePage(uint32_t shards = 1) : words_(page_bytes(kMaxShards) / 8) {
    PageHeader* header = this->header();
    header->layout_version = kLayoutVersion;
    header->header_bytes = sizeof(PageHeader);
    header->catalogue_hash = kCatalogueHash;
    header->identity.pid = 4711;
    strcpy(header->identity.comm, "made");
    strcpy(header->version, "1.2.3");
    header->shard_count = shards;
    for (uint32_t i = 0; i < metrics::kSlabClassCount; ++i) header->class_bytes[i] = 16 * (i + 1);
    header->magic = kPageMagic;
    bytes_ = page_bytes(shards);
  }

  PageHeader* header() { return reinterpret_cast<PageHeader*>(words_.data()); }
  Slot* slots() { return shard_slots(words_.data()); }
  Slot* published() { return publish_slots(words_.data()); }
  char* data() { return reinterpret_cast<char*>(words_.data()); }
  size_t bytes() const { return bytes_; }

  PageVerdict read(Snapshot* snapshot, size_t bytes) {
    int fd = memfd_create("page", MFD_CLOEXEC);
    EXPECT_EQ(write(fd, data(), bytes), static_cast<ssize_t>(bytes));
    PageVerdict verdict = read_snapshot(fd, snapshot);
    close(fd);
    return verdict;
  }
  PageVerdict read(Snapshot* snapshot) { return read(snapshot, bytes_); }

 private:
  std::vector<uint64_t> words_;
  size_t bytes_;
};

void expect_bad(MadePage& page, PageProblem problem) {
  Snapshot snapshot;
  PageVerdict verdict = page.read(&snapshot);
  EXPECT_EQ(verdict.state, PageState::Bad);
  EXPECT_EQ(verdict.problem, problem) << metrics::kPageProblemNames[static_cast<size_t>(problem)];
}

TEST(Snapshot, SumsTheShards) {
  MadePage page(4);
  uint32_t slot = metrics::kFirstSlot<Metric::kRefills> + 12;
  for (uint32_t shard = 0; shard < 4; ++shard) page.slots()[shard * metrics::kShardSlots + slot] = 10 + shard;
  page.published()[metrics::kFirstSlot<Metric::kThreads>] = encode_gauge(3);
  page.published()[metrics::kFirstSlot<Metric::kLockWaits>] = 17;
  Snapshot snapshot;
  ASSERT_TRUE(page.read(&snapshot).good());
  EXPECT_EQ(snapshot.counter(Metric::kRefills, 12), 46u);
  EXPECT_EQ(snapshot.counter(Metric::kLockWaits, 0), 17u);
  EXPECT_EQ(snapshot.gauge(Metric::kThreads, 0), 3.0);
  EXPECT_EQ(snapshot.comm, "made");
  EXPECT_EQ(snapshot.identity.pid, 4711u);
}

TEST(Snapshot, SaysWhatIsWrongWithAPage) {
  {
    MadePage page;
    page.header()->magic = 0;
    Snapshot snapshot;
    EXPECT_EQ(page.read(&snapshot).state, PageState::Unfinished);
    EXPECT_EQ(page.read(&snapshot, 0).state, PageState::Unfinished) << "just created, still empty";
  }
  {
    MadePage page;
    page.header()->magic = 42;
    expect_bad(page, PageProblem::NotAPage);
  }
  {
    MadePage page;
    page.header()->layout_version = kLayoutVersion + 1;
    expect_bad(page, PageProblem::ForeignVersion);
  }
  {
    MadePage page;
    page.header()->catalogue_hash = kCatalogueHash + 1;
    expect_bad(page, PageProblem::ForeignCatalogue);
  }
  for (uint32_t shards : {0u, 3u, 17u, 64u, 0x80000000u, ~0u}) {
    MadePage page;
    page.header()->shard_count = shards;
    expect_bad(page, PageProblem::Damaged);
  }
  {
    MadePage page;
    page.header()->class_bytes[5] = page.header()->class_bytes[4];  // two series of one name
    expect_bad(page, PageProblem::Damaged);
  }
  {
    MadePage page;
    page.header()->class_bytes[5] = 0;  // no class, but more of them behind it
    expect_bad(page, PageProblem::Damaged);
  }
}

TEST(Snapshot, ATruncatedFileIsNotReadBeyondItsEnd) {
  MadePage page;
  Snapshot snapshot;
  for (size_t bytes = 0; bytes < page.bytes(); bytes += 411) EXPECT_FALSE(page.read(&snapshot, bytes).good()) << bytes;
  EXPECT_TRUE(page.read(&snapshot, page.bytes()).good());
}

TEST(Snapshot, APageThatGrewIsReadAsFarAsTheCallerKnowsIt) {
  MadePage page(4);
  page.slots()[metrics::kFirstSlot<Metric::kRefills>] = 5;
  page.slots()[3 * metrics::kShardSlots + metrics::kFirstSlot<Metric::kRefills>] = 7;
  Snapshot snapshot;
  ASSERT_TRUE(read_snapshot(page.data(), page_bytes(2), &snapshot).good());
  EXPECT_EQ(snapshot.counter(Metric::kRefills, 0), 5u);
}

TEST(Snapshot, TextOfAPageIsFitForALabel) {
  MadePage page;
  memset(page.header()->identity.comm, 0xff, sizeof page.header()->identity.comm);
  memcpy(page.header()->identity.comm, "a\"\n\x1b", 4);
  Snapshot snapshot;
  ASSERT_TRUE(page.read(&snapshot).good());
  EXPECT_EQ(snapshot.comm, "a\"??????????????");
}

TEST(Snapshot, RandomDamageNeverCrashesIt) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    MadePage page(round % 3 == 0 ? 4 : 1);
    int flips = 1 << (random() % 10);
    for (int i = 0; i < flips; ++i)
      page.data()[random() % (i % 2 == 0 ? sizeof(PageHeader) : page.bytes())] ^=
          static_cast<char>(1 << (random() % 8));
    Snapshot snapshot;
    if (page.read(&snapshot, random() % 4 == 0 ? random() % page.bytes() : page.bytes()).good()) {
      EXPECT_LE(snapshot.comm.size(), 16u);
      snapshot.counter(Metric::kOutOfMemory, 0);
    }
  }
}

TEST(Snapshot, AFileThatShrinksAndGrowsMeanwhileIsHarmless) {
  MadePage page(16);
  int fd = memfd_create("page", MFD_CLOEXEC);
  std::atomic<bool> stop{false};
  std::thread owner([&] {
    while (!stop.load()) {
      ASSERT_EQ(ftruncate(fd, 0), 0);
      ASSERT_EQ(pwrite(fd, page.data(), page.bytes(), 0), static_cast<ssize_t>(page.bytes()));
    }
  });
  int good = 0;
  for (int i = 0; i < 2000; ++i) {
    Snapshot snapshot;
    good += read_snapshot(fd, &snapshot).good() ? 1 : 0;
  }
  stop.store(true);
  owner.join();
  close(fd);
  RecordProperty("good", good);
}

TEST(Snapshot, PublishedFiguresAreOfOneMoment) {
  MadePage page;
  uint32_t first = metrics::kFirstSlot<Metric::kLockAcquisitions>;
  std::atomic<bool> stop{false};
  std::thread publisher([&] {
    for (uint64_t round = 1; !stop.load(); ++round) {
      uint64_t epoch = page.header()->publish_epoch.load(std::memory_order_relaxed);
      page.header()->publish_epoch.store(epoch + 1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_release);
      for (uint32_t lock = 0; lock < 6; ++lock) page.published()[first + lock].store(round, std::memory_order_relaxed);
      page.header()->publish_epoch.store(epoch + 2, std::memory_order_release);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  });
  for (int i = 0; i < 5000; ++i) {
    Snapshot snapshot;
    ASSERT_TRUE(read_snapshot(page.data(), page.bytes(), &snapshot).good());
    for (uint32_t lock = 1; lock < 6; ++lock)
      ASSERT_EQ(snapshot.counter(Metric::kLockAcquisitions, lock), snapshot.counter(Metric::kLockAcquisitions, 0));
  }
  stop.store(true);
  publisher.join();
}

TEST(Snapshot, RefilledLessCollectedIsNeverNegative) {
  MadePage page;
  uint32_t refilled = metrics::kFirstSlot<Metric::kRefillObjects>;
  uint32_t collected = metrics::kFirstSlot<Metric::kCollectedObjects>;
  std::atomic<bool> stop{false};
  std::thread program([&] {
    while (!stop.load()) {
      page.slots()[refilled].fetch_add(1);
      page.slots()[collected].fetch_add(1);
    }
  });
  for (int i = 0; i < 20000; ++i) {
    Snapshot snapshot;
    ASSERT_TRUE(read_snapshot(page.data(), page.bytes(), &snapshot).good());
    ASSERT_GE(snapshot.counter(Metric::kRefillObjects, 0), snapshot.counter(Metric::kCollectedObjects, 0));
  }
  stop.store(true);
  program.join();
}

TEST(Snapshot, OnlyRegularFilesAreOpened) {
  TemporaryFolder folder;
  std::string fifo = folder.path() + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(open_page(fifo), -1);
  std::string link = folder.path() + "/link";
  ASSERT_EQ(symlink("/etc/passwd", link.c_str()), 0);
  EXPECT_EQ(open_page(link), -1);
}

TEST(Snapshot, TotalsOfEndedProcessesHaveCountersAndNoGauges) {
  MadePage page;
  page.slots()[metrics::kFirstSlot<Metric::kHugeFrees>] = 4;
  page.published()[metrics::kFirstSlot<Metric::kLockWaits> + 1] = 6;
  page.published()[metrics::kFirstSlot<Metric::kThreads>] = encode_gauge(3);
  Snapshot snapshot;
  ASSERT_TRUE(page.read(&snapshot).good());
  Snapshot totals = Snapshot::empty();
  totals.add_counters_of(snapshot);
  totals.add_counters_of(snapshot);
  EXPECT_EQ(totals.counter(Metric::kHugeFrees, 0), 8u);
  EXPECT_EQ(totals.counter(Metric::kLockWaits, 1), 12u);
  EXPECT_TRUE(std::isnan(totals.gauge(Metric::kThreads, 0)));
}

}  // namespace
}  // namespace hakmem::telemetry
