// The ring of the last minutes: what is due, what wraps, and entries that were
// being written when their process was killed.
#include "telemetry/history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "telemetry/page_writer.h"
#include "telemetry/publisher.h"
#include "telemetry/snapshot.h"
#include "tests/telemetry/fake_heap.h"
#include "tests/telemetry/in_child.h"

namespace hakmem::telemetry {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

// A page in a file of its own, as a reader sees it.
class HistoryTest : public testing::Test {
 protected:
  HistoryTest() : fd_(memfd_create("page", 0)) {
    EXPECT_EQ(ftruncate(fd_, page_bytes(1)), 0);
    page_ = mmap(nullptr, page_bytes(1), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  ~HistoryTest() override {
    munmap(page_, page_bytes(1));
    close(fd_);
  }

  void record(uint64_t second, double resident) {
    HistoryFigures figures{};
    figures.realtime = second * kSecond;
    figures.resident = resident;
    figures.live = resident / 2;
    figures.allocations = second * 100;
    record_history(ring(), figures, second * kSecond);
  }

  History* ring() { return history(page_); }
  PageHistory read() { return read_history(fd_); }

  std::vector<uint64_t> seconds() {
    std::vector<uint64_t> seconds;
    for (const HistoryFigures& entry : read().entries) seconds.push_back(entry.realtime / kSecond);
    return seconds;
  }

  int fd_;
  void* page_;
};

TEST_F(HistoryTest, AnEntryEveryFiveSecondsAndThePeakAtAnyTime) {
  EXPECT_TRUE(read().entries.empty());
  EXPECT_FALSE(read().peak);
  for (uint64_t second : {1, 3, 5, 6, 7, 12}) record(second, second == 5 ? 500 : 100);
  EXPECT_THAT(seconds(), testing::ElementsAre(1, 6, 12));
  EXPECT_EQ(read().entries[1].resident, 100);
  EXPECT_EQ(read().entries[1].live, 50);
  EXPECT_EQ(read().entries[1].allocations, 600u);
  ASSERT_TRUE(read().peak);
  EXPECT_EQ(read().peak->resident, 500);
  EXPECT_EQ(read().peak->realtime, 5 * kSecond);
}

TEST_F(HistoryTest, TheNewestEntriesStay) {
  constexpr uint64_t kWritten = 3 * kHistoryEntries + 7;
  for (uint64_t number = 0; number < kWritten; ++number) record(5 * (number + 1), 100);
  std::vector<uint64_t> found = seconds();
  ASSERT_EQ(found.size(), kHistoryEntries);
  EXPECT_EQ(found.back(), 5 * kWritten);
  EXPECT_EQ(found.front(), 5 * (kWritten - kHistoryEntries + 1));
  EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
}

TEST_F(HistoryTest, AFigureThatWasNotMeasuredIsNoPeak) {
  record(1, std::nan(""));
  EXPECT_FALSE(read().peak);
  record(2, 10);
  record(7, std::nan(""));
  EXPECT_EQ(read().peak->resident, 10);
  EXPECT_TRUE(std::isnan(read().entries.back().resident));
}

TEST_F(HistoryTest, ATornEntryIsLeftOutAndThePeakBeforeIsShown) {
  for (uint64_t second : {1, 6, 11}) record(second, static_cast<double>(second));
  ring()->ring[2].sequence.fetch_sub(1);  // as a writer leaves it that is killed in the middle
  ring()->peaks[0].sequence.fetch_sub(1);
  EXPECT_THAT(seconds(), testing::ElementsAre(1, 6));
  ASSERT_TRUE(read().peak);
  EXPECT_EQ(read().peak->resident, 6);
}

TEST_F(HistoryTest, WhatNoWriterLeavesIsLeftOut) {
  record(1, 1);
  memset(static_cast<void*>(ring()), 0xff, sizeof(History));
  ring()->ring[3].sequence.store(2 * 4 + 2);  // the fourth entry has the third's place
  EXPECT_TRUE(read().entries.empty());
  EXPECT_FALSE(read().peak);
  ASSERT_EQ(ftruncate(fd_, kHistoryOffset + 100), 0);
  EXPECT_TRUE(read().entries.empty());
}

TEST(HistoryOfAProcess, ThePublisherKeepsWhatItMeasured) {
  char folder[] = "/tmp/hakmem-history-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  ChildResult child = in_child({{"HAKMEM_PAGES", folder}}, [&] {
    create_page(true, false);
    Mapping touched(8 << 20, 8 << 20);
    publish(metrics::heap_view, page(), Depth::Heap);
    std::string file = std::filesystem::directory_iterator(folder)->path();
    int fd = open_page(file);
    PageHistory history = read_history(fd);
    close(fd);
    remove_page();
    ASSERT_EQ(history.entries.size(), 1u);
    EXPECT_GT(history.entries[0].resident, 8 << 20) << "the kernel's figure, though only the heap was walked";
    EXPECT_TRUE(std::isnan(history.entries[0].outside));
    EXPECT_EQ(history.entries[0].live, 0);
    ASSERT_TRUE(history.peak);
    EXPECT_EQ(history.peak->resident, history.entries[0].resident);
  });
  EXPECT_EQ(child.status, 0) << child.error_text;
  rmdir(folder);
}

}  // namespace
}  // namespace hakmem::telemetry
