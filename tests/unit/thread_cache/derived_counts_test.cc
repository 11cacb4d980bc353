// The telemetry's counts, made at looks at a bin, against exact counts of every
// call, which only the debug build has. They are equal while nobody is in a call.
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
using test::Mailbox;
using test::rounds;
using test::ShadowHeap;

class DerivedCountsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kBuild.exact_counts) GTEST_SKIP() << "only the debug build counts every call";
  }
};

// No alignment that takes a mapping of its own: those draw samples per call.
constexpr ShadowHeap::Limits kSmall{
    .log2_max_bytes = 15, .max_blocks = 3000, .max_bytes = 32 * kMiB, .log2_max_alignment = 12};

TEST_F(DerivedCountsTest, OneThreadWithSamples) {
  test::SampleInterval interval(20000);
  ShadowHeap shadow(2, kSmall);
  for (uint32_t i = 0; i < rounds(40000); ++i) {
    shadow.step();
    if (i % 1000 == 0) test::expect_allocations_counted();
    if (HasFailure()) return;
  }
  EXPECT_GT(counter<Metric::kSamples>(), 100u);
  shadow.free_all();
  test::expect_allocations_counted();
}

TEST_F(DerivedCountsTest, OneThreadWithoutSamples) {
  test::SampleInterval interval(0);
  ShadowHeap shadow(1, kSmall);
  for (uint32_t i = 0; i < rounds(40000); ++i) {
    shadow.step();
    if (i % 1000 == 0) test::expect_allocations_counted();
    if (HasFailure()) return;
  }
  shadow.free_all();
  test::expect_allocations_counted();
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
      if (thread == 0) test::expect_allocations_counted();
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
  EXPECT_EQ(counter<Metric::kHugeRemaps>(), 19u);  // the last one grows where it stands
}

}  // namespace
}  // namespace hakmem
