// How many part-full slabs a thread keeps beside others.
#include "allocator/thread_cache/kept_slabs.h"

#include <gtest/gtest.h>

#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/blocks.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::allocate_many;
using test::free_all;
using test::OtherThread;
using test::state_of;

// Frees all but one in ten, which keep the slabs part-full, and allocates as many again.
TEST(KeptSlabs, BurstsOfLargerBlocksComeToKeepTheirs) {
  test::start_process();
  test::SampleInterval interval(0);
  OtherThread other([] { free(allocate(16)); });
  constexpr size_t kLargerBytes = 5000;
  std::vector<void*> blocks = allocate_many(400, kLargerBytes);
  for (int burst = 0; burst < 4; ++burst) {
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (i % 10 != 0) free(blocks[i]);
    }
    if (burst == 0) {
      EXPECT_LE(state_of(kLargerBytes).available_count, KeptSlabs::kOfLarger);
    }
    if (burst == 3) {
      EXPECT_GT(state_of(kLargerBytes).available_count, KeptSlabs::kRow);
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (i % 10 != 0) blocks[i] = allocate(kLargerBytes);
    }
  }
  free_all(blocks);
  other.run(flush_thread_cache);
  flush_thread_cache();
  test::expect_books_balance({});
}

TEST(KeptSlabs, GrowByRowsOfLargerBlocks) {
  const uint32_t larger = size_class_of(5000), small = size_class_of(64);
  KeptSlabs kept;
  auto row = [&](uint32_t given, uint32_t taken, uint32_t size_class) {
    for (uint32_t i = 0; i < given; ++i) kept.given();
    for (uint32_t i = 0; i < taken; ++i) kept.taken(size_class);
    return kept.limit(size_class);
  };
  EXPECT_EQ(row(KeptSlabs::kRow - 1, KeptSlabs::kRow - 1, larger), KeptSlabs::kOfLarger);
  EXPECT_EQ(row(KeptSlabs::kRow + 3, 100, larger), KeptSlabs::kOfLarger + 4);
  // What is taken beyond what was given was never the thread's own; short rows are of threads that pass blocks on.
  EXPECT_EQ(row(3, 100, larger), KeptSlabs::kOfLarger + 4);
  for (int i = 0; i < 6; ++i) row(1, 1, larger);
  EXPECT_EQ(kept.limit(larger), KeptSlabs::kOfLarger);
  const size_t slab_bytes = kClassShapes[larger].units * kUnitBytes;
  EXPECT_EQ(row(1000, 1000, larger), KeptSlabs::kOfLarger + KeptSlabs::kMostBytes / slab_bytes);
  kept = {};
  EXPECT_EQ(row(100, 100, small), KeptSlabs::kOfSmall);
}

}  // namespace
}  // namespace hakmem
