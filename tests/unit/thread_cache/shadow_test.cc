// Random operations of one thread against the shadow model.
#include <gtest/gtest.h>

#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"

namespace hakmem {
namespace {

using test::LiveCounts;
using test::rounds;
using test::ShadowHeap;

// Runs `steps` operations, looks at the books every `interval`, and frees all.
void run(ShadowHeap& shadow, uint32_t steps, uint32_t interval) {
  for (uint32_t i = 1; i <= steps; ++i) {
    shadow.step();
    if (i % interval == 0) {
      LiveCounts live{};
      shadow.count_live(live);
      test::expect_books_balance(live);
    }
    if (testing::Test::HasFailure()) break;
  }
  shadow.free_all();
  test::expect_books_balance({});
}

class ShadowTest : public testing::TestWithParam<uint64_t> {};

TEST_P(ShadowTest, AllSizes) {
  ShadowHeap shadow(GetParam());
  run(shadow, rounds(6000), 500);
}

TEST_P(ShadowTest, ManySmallBlocks) {
  ShadowHeap shadow(GetParam(), {.log2_max_bytes = 11, .max_blocks = 20000, .max_bytes = 32 * kMiB});
  run(shadow, rounds(60000), 10000);
}

// Sampling often: every path that a shortened refill takes.
TEST_P(ShadowTest, ManySamples) {
  test::SampleInterval interval(2048);
  ShadowHeap shadow(GetParam(), {.log2_max_bytes = 13, .max_blocks = 3000, .max_bytes = 16 * kMiB});
  run(shadow, rounds(40000), 5000);
}

TEST_P(ShadowTest, MemoryComesAndGoes) {
  ShadowHeap shadow(GetParam(), {.log2_max_bytes = 19, .max_blocks = 2000, .max_bytes = 100 * kMiB});
  for (uint32_t wave = 0; wave < 6; ++wave) {
    for (uint32_t i = 0; i < rounds(1500); ++i) shadow.step();
    if (wave % 2 == 1) purge_all();
    while (shadow.size() > 50) shadow.free();
    LiveCounts live{};
    shadow.count_live(live);
    test::expect_books_balance(live);
    if (testing::Test::HasFailure()) break;
  }
  shadow.free_all();
  test::expect_books_balance({});
}

INSTANTIATE_TEST_SUITE_P(Seeds, ShadowTest, testing::Values(1, 2, 3, 4));

// All blocks of a class, in each order of freeing, come back in the end.
TEST(ThreadCache, EveryClassGivesItsMemoryBack) {
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    uint32_t count = kClassShapes[size_class].capacity * 2 + 1;
    if (count > 1000) count = 1000;
    std::vector<void*> blocks;
    for (uint32_t i = 0; i < count; ++i) blocks.push_back(allocate(kClassShapes[size_class].block_bytes));
    for (void* block : blocks) {
      ASSERT_NE(block, nullptr);
      EXPECT_EQ(usable_bytes(block), kClassShapes[size_class].block_bytes);
    }
    for (uint32_t i = 0; i < count; ++i) free(blocks[size_class % 2 == 0 ? i : count - 1 - i]);
  }
  test::expect_books_balance({});
  // What is left is a current slab a class, and what the blocks in bins stand in.
  uint64_t in_use = 0;
  for (uint32_t i = 0; i < kSizeClassCount; ++i) in_use += 2 + kBinShapes[i].capacity / kClassShapes[i].capacity;
  EXPECT_LE(test::unsampled_slabs(), in_use);
  flush_thread_cache();
  EXPECT_EQ(test::unsampled_slabs(), 0u);
}

}  // namespace
}  // namespace hakmem
