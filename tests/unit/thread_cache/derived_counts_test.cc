// Derived figures against exact counts, which only the debug build has:
//   allocations == objects of refills + samples - objects still listed
// holds by equality while nobody is in a call and no thread has ended (what an
// ended thread had listed goes back uncounted).
#include <gtest/gtest.h>

#include <barrier>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/api/statistics.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using metrics::Metric;
using test::counter;
using test::LiveCounts;
using test::Mailbox;
using test::rounds;
using test::ShadowHeap;

class DerivedCountsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kBuild.exact_counts) GTEST_SKIP() << "only the debug build counts every call";
  }

  // Holds the equation by size class; with samples, which are counted for all classes together, in total.
  static void expect_equal(bool by_class) {
    LiveCounts listed = test::listed_by_view();
    uint64_t exact_sum = 0, derived_sum = 0;
    for (uint32_t i = 0; i < kSizeClassCount; ++i) {
      uint64_t exact = exact_totals(i).allocations;
      uint64_t derived = test::refill_objects(i) - listed[i];
      if (by_class) {
        ASSERT_EQ(exact, derived) << "class " << i;
      }
      exact_sum += exact;
      derived_sum += derived;
    }
    ASSERT_EQ(exact_sum, derived_sum + counter<Metric::kSamples>());
  }
};

// No alignment that takes a mapping of its own: those draw samples per call.
constexpr ShadowHeap::Limits kSmall{
    .log2_max_bytes = 15, .max_blocks = 3000, .max_bytes = 32 * kMiB, .log2_max_alignment = 12};

TEST_F(DerivedCountsTest, OneThreadWithoutSamples) {
  test::SampleInterval interval(0);
  ShadowHeap shadow(1, kSmall);
  for (uint32_t i = 0; i < rounds(40000); ++i) {
    shadow.step();
    if (i % 1000 == 0) expect_equal(true);
    if (HasFatalFailure()) return;
  }
  shadow.free_all();
  expect_equal(true);
}

TEST_F(DerivedCountsTest, OneThreadWithSamples) {
  test::SampleInterval interval(20000);
  ShadowHeap shadow(2, kSmall);
  for (uint32_t i = 0; i < rounds(40000); ++i) {
    shadow.step();
    if (i % 1000 == 0) expect_equal(false);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(counter<Metric::kSamples>(), 100u);
  shadow.free_all();
  expect_equal(false);
}

TEST_F(DerivedCountsTest, ManyThreadsAtRest) {
  constexpr uint32_t kThreads = 4;
  test::start_process();
  test::SampleInterval interval(50000);
  Mailbox mailboxes[kThreads];
  std::barrier barrier(kThreads);
  test::run_threads(kThreads, [&](uint32_t thread) {
    ShadowHeap shadow(thread + 10,
                      {.log2_max_bytes = 13, .max_blocks = 2000, .max_bytes = 16 * kMiB, .log2_max_alignment = 12});
    for (uint32_t round = 0; round < 4; ++round) {
      for (uint32_t i = 0; i < rounds(8000); ++i) {
        shadow.step();
        if (!shadow.empty()) mailboxes[shadow.random().below(kThreads)].put(shadow.give());
        if (i % 8 == 0) mailboxes[thread].empty_into(shadow);
      }
      barrier.arrive_and_wait();
      if (thread == 0) expect_equal(false);
      barrier.arrive_and_wait();
    }
    mailboxes[thread].empty_into(shadow);
    shadow.free_all();
    barrier.arrive_and_wait();
    mailboxes[thread].empty_into(shadow);  // what came last
    shadow.free_all();
  });
  test::expect_books_balance({});
}

TEST_F(DerivedCountsTest, HugeAllocationsAreCountedOneByOne) {
  std::vector<void*> blocks;
  for (int i = 0; i < 20; ++i) blocks.push_back(allocate(2 * kMiB));
  for (void*& block : blocks) block = reallocate(block, 3 * kMiB);
  for (void* block : blocks) free(block);
  EXPECT_EQ(counter<Metric::kHugeAllocations>(), exact_totals(metrics::kHugeClass).allocations);
  EXPECT_EQ(counter<Metric::kHugeFrees>(), exact_totals(metrics::kHugeClass).frees);
  EXPECT_EQ(counter<Metric::kHugeRemaps>(), 20u);
}

}  // namespace
}  // namespace hakmem
