// What many threads have in common of larger classes: blocks, slabs, and how much each keeps.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/platform/clock.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/lifetime.h"
#include "allocator/thread_cache/thread_cache.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/blocks.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::allocate_many;
using test::free_all;
using test::in_bin;
using test::OtherThread;
using test::slab_of_block;
using test::state_of;

constexpr size_t kSharedSize = 8 * kKiB;

using Threads = std::array<OtherThread, HugePagePolicy::kFewThreads>;  // and the test's own

class FewThreadsTest : public testing::Test {
 protected:
  // As for the first time.
  static void* allocate_anew(size_t bytes) {
    state_of(bytes).refilled_at = 0;
    return allocate(bytes);
  }

  FewThreadsTest() {
    test::start_process();
    flush_thread_cache();
  }
  ~FewThreadsTest() override {
    flush_thread_cache();
    test::expect_books_balance({});
    EXPECT_EQ(test::unsampled_slabs(), 0u);
  }

  test::SampleInterval interval_{0};
};

class SharingTest : public FewThreadsTest {
 protected:
  SharingTest() {
    for (OtherThread& thread : threads_) thread.run([] { free(allocate(16)); });
  }
  ~SharingTest() override {
    for (OtherThread& thread : threads_) thread.run(flush_thread_cache);
  }

  Threads threads_;
};

TEST_F(SharingTest, WhatOneThreadFreesAnotherAllocates) {
  for (size_t bytes : {size_t{2000}, kSharedSize, size_t{30'000}, size_t{100'000}}) {
    uint32_t size_class = size_class_of(bytes);
    std::vector<void*> blocks;
    for (int i = 0; i < 5; ++i) blocks.push_back(allocate_anew(bytes));
    free_all(blocks);
    EXPECT_LE(in_bin(bytes), kBinShapes[size_class].shared) << bytes;
    uint32_t pooled = heap.pool.pooled_blocks(size_class);
    ASSERT_GE(pooled, 3u) << bytes;
    threads_[0].run([&] {
      std::vector<void*> again = allocate_many(pooled, bytes);
      for (void* block : again) EXPECT_EQ(std::count(blocks.begin(), blocks.end(), block), 1) << bytes;
      free_all(again);
    });
  }
}

TEST_F(SharingTest, NoThreadKeepsASlabThatHasFreeBlocks) {
  void* block = allocate(kSharedSize);
  EXPECT_EQ(state_of(kSharedSize).current, nullptr);
  EXPECT_EQ(slab_of_block(block)->owner.load(), owner::kPooled);
  void* others = nullptr;
  threads_[0].run([&] { others = allocate(kSharedSize); });
  EXPECT_EQ(slab_of_block(others), slab_of_block(block));
  threads_[0].run([&] { free(block); });
  free(others);
}

TEST_F(SharingTest, OfSmallBlocksEachHasASlab) {
  for (size_t bytes : {size_t{16}, kSharedBlockBytes}) {
    void* block = allocate(bytes);
    EXPECT_EQ(slab_of_block(block)->owner.load(), thread_state.cache->tag()) << bytes;
    free(block);
  }
}

TEST_F(SharingTest, ABinHoldsMoreWhereRefillsFollowSoon) {
  free(allocate(kSharedSize));
  const uint32_t least = kBinShapes[size_class_of(kSharedSize)].shared;
  const uint32_t most = kBinShapes[size_class_of(kSharedSize)].capacity;
  EXPECT_EQ(state_of(kSharedSize).bin_limit, least);
  std::vector<void*> blocks;
  auto refill = [&](uint64_t last) {
    while (in_bin(kSharedSize) != 0) blocks.push_back(allocate(kSharedSize));
    state_of(kSharedSize).refilled_at = last;
    blocks.push_back(allocate(kSharedSize));
  };
  // What is to come soon comes late where the thread is stopped in between.
  for (int i = 0; i < 1000 && state_of(kSharedSize).bin_limit < most; ++i) refill(ticks());
  EXPECT_EQ(state_of(kSharedSize).bin_limit, most);
  refill(1);
  EXPECT_EQ(state_of(kSharedSize).bin_limit, most / 2);
  for (int i = 0; i < 10; ++i) refill(1);
  EXPECT_EQ(state_of(kSharedSize).bin_limit, least);
  free_all(blocks);
}

TEST_F(SharingTest, TheNextThreadWithACacheStartsAnew) {
  free(allocate(kSharedSize));
  flush_thread_cache();  // as a thread does that ends
  ASSERT_EQ(state_of(kSharedSize).bin_limit, kBinShapes[size_class_of(kSharedSize)].capacity);
  free(allocate(kSharedSize));
  EXPECT_EQ(state_of(kSharedSize).bin_limit, kBinShapes[size_class_of(kSharedSize)].shared);
}

TEST_F(SharingTest, NobodyClaimsASlabWhoseBlocksAreAllHandedOut) {
  constexpr size_t kAlone = 60'000;  // in its slab
  void* block = allocate(kAlone);
  Slab* slab = slab_of_block(block);
  ASSERT_EQ(slab->owner.load(), owner::kUnowned);
  threads_[0].run([&] {
    free(block);
    EXPECT_EQ(in_bin(kAlone), 1u);
  });
  EXPECT_EQ(slab->owner.load(), owner::kUnowned);
}

TEST_F(SharingTest, AThreadThatOnlyFreesPassesOn) {
  const uint32_t size_class = size_class_of(kSharedSize);
  std::vector<void*> blocks = allocate_many(2 * kBinShapes[size_class].capacity, kSharedSize);
  threads_[0].run([&] {
    free_all(blocks);
    EXPECT_LE(in_bin(kSharedSize), kBinShapes[size_class].passed_on);
  });
  EXPECT_GE(heap.pool.pooled_blocks(size_class), kBinShapes[size_class].capacity);
}

// A thread has no slab of such a class, and of the larger ones its bin holds one block: the sample takes its place.
TEST_F(SharingTest, ASampleStandsForABlockOfItsClass) {
  if (!kBuild.stats) GTEST_SKIP() << "nothing is sampled in this build";
  static uint32_t samples, without_place, wrong;
  samples = without_place = wrong = 0;
  test::SampleInterval::follow_by([](const metrics::Sample& sample) {
    ++samples;
    if (sample.beside == 0) {
      ++without_place;  // the first ones: no block of the class was in the bin before
      return;
    }
    Slab* slab = heap.superslabs.find(sample.beside);
    if (slab == nullptr || slab->head()->size_class != sample.size_class) ++wrong;
  });
  test::SampleInterval interval(16 * kKiB);
  for (size_t bytes : {size_t{1500}, kSharedSize, size_t{30'000}, size_t{200'000}}) {
    flush_thread_cache();
    free_all(allocate_many(300, bytes));
  }
  EXPECT_GT(samples, 100u);
  EXPECT_LT(without_place, samples / 10);
  EXPECT_EQ(wrong, 0u);
  test::SampleInterval::follow(false);
  flush_thread_cache();
}

TEST_F(FewThreadsTest, AmongFewThreadsEachKeepsItsOwn) {
  {
    Threads many;
    for (OtherThread& thread : many) thread.run([] { free(allocate(kSharedSize)); });
  }
  void* block = allocate(kSharedSize);
  EXPECT_EQ(slab_of_block(block)->owner.load(), thread_state.cache->tag());
  free(block);
  EXPECT_EQ(in_bin(kSharedSize), 1u);
}

}  // namespace
}  // namespace hakmem
