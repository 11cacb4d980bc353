// Bins: what comes next out of one, what a full one gives back, and that the
// blocks in it find their slabs again, whatever has become of these meanwhile.
#include "allocator/thread_cache/bin.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <unordered_map>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/lifetime.h"
#include "allocator/thread_cache/thread_cache.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/blocks.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::allocate_many;
using test::free_all;
using test::in_bin;
using test::LiveCounts;
using test::OtherThread;
using test::run_in_thread;
using test::slab_of_block;

uintptr_t owner_of(void* block) { return slab_of_block(block)->owner.load(); }

class BinTest : public testing::Test {
 protected:
  BinTest() {
    test::start_process();
    flush_thread_cache();  // what an earlier test left in bins
  }

  // That nothing is left where blocks came from and went to: no block, no slab.
  static void expect_all_returned() {
    flush_thread_cache();
    test::expect_books_balance({});
    EXPECT_EQ(test::unsampled_slabs(), 0u);
  }

  // Samples do not go through bins.
  test::SampleInterval interval_{0};
};

TEST_F(BinTest, TheLastBlockFreedComesNext) {
  for (size_t bytes : {size_t{16}, size_t{100}, size_t{1000}, size_t{9000}, size_t{40000}}) {
    std::vector<void*> blocks = allocate_many(5, bytes);
    for (void* block : blocks) free(block);
    for (size_t i = blocks.size(); i-- > 0;) EXPECT_EQ(allocate(bytes), blocks[i]) << bytes;
    free_all(blocks);
  }
}

TEST_F(BinTest, TheLastBlockFreedComesNextWhoeverOwnsItsSlab) {
  std::vector<void*> blocks;
  OtherThread owner([&] { blocks = allocate_many(5, 100); });
  free(blocks[0]);
  free(blocks[1]);
  EXPECT_EQ(allocate(100), blocks[1]);
  EXPECT_EQ(allocate(100), blocks[0]);
  free_all(blocks);
}

TEST_F(BinTest, AThreadThatRefillsSendsTheBlocksOfOthersHomeForAWhile) {
  std::vector<void*> blocks;
  OtherThread owner([&] { blocks = allocate_many(kSentHome + 2, 48); });
  void* own = allocate(48);
  ASSERT_NE(owner_of(own), owner_of(blocks.front()));
  ClassState& state = thread_state.cache->classes[size_class_of(48)];
  state.to_send_home = -kSentHome;
  for (int32_t i = 0; i < kSentHome; ++i) {
    free(blocks.back());
    ASSERT_EQ(allocate(48), blocks.back()) << i;
  }
  uint32_t in_bin_before = in_bin(48);
  for (int32_t i = 0; i < kSentHome; ++i) free(blocks[i]);
  EXPECT_EQ(in_bin(48), in_bin_before);
  free(blocks[kSentHome]);
  free(own);
  EXPECT_EQ(in_bin(48), in_bin_before + 2);
  free(blocks[kSentHome + 1]);
  flush_thread_cache();
  owner.run(flush_thread_cache);
  expect_all_returned();
}

TEST_F(BinTest, FreesOfOwnBlocksHaveMoreOfOthersGoHome) {
  thread_state.cache->classes[size_class_of(100)].to_send_home = 1;
  for (uint32_t i = 0; i < 2 * kMaxBinBlocks; ++i) free(allocate(100));
  EXPECT_GT(thread_state.cache->classes[size_class_of(100)].to_send_home, 1);
  EXPECT_LE(thread_state.cache->classes[size_class_of(100)].to_send_home, kSentHome);
}

TEST_F(BinTest, AFullBinKeepsSomeAndHandsOutTheLatestFirst) {
  for (size_t bytes : {size_t{16}, size_t{512}, size_t{5000}, size_t{50000}}) {
    uint32_t size_class = size_class_of(bytes);
    uint32_t capacity = kBinShapes[size_class].capacity;
    std::vector<void*> blocks = allocate_many(5 * capacity, bytes);
    for (void* block : blocks) {
      free(block);
      ASSERT_LE(in_bin(bytes), capacity);
    }
    LiveCounts live{};
    test::expect_books_balance(live);
    size_t kept = in_bin(bytes);
    ASSERT_GT(kept, 0u);
    EXPECT_LE(kept * kClassShapes[size_class].block_bytes, kBigBytes);
    if (!kBinShapes[size_class].is_big) {
      // Of a big class the bin is full with the first of them, and takes no more.
      std::unordered_map<void*, size_t> freed_at;
      for (size_t i = 0; i < blocks.size(); ++i) freed_at[blocks[i]] = i;
      std::vector<void*> again = allocate_many(kept, bytes);
      for (size_t i = 1; i < kept; ++i) EXPECT_LT(freed_at.at(again[i]), freed_at.at(again[i - 1])) << bytes;
      EXPECT_EQ(in_bin(bytes), 0u);
      live[size_class] = kept;
      test::expect_books_balance(live);
      free_all(again);
    }
  }
  expect_all_returned();
}

TEST_F(BinTest, AThreadThatOnlyFreesKeepsNoMoreThanABatch) {
  for (size_t bytes : {size_t{16}, size_t{512}, size_t{5000}, size_t{30000}}) {
    uint32_t size_class = size_class_of(bytes);
    std::vector<void*> blocks = allocate_many(3 * kBinShapes[size_class].capacity, bytes);
    OtherThread other([&] {
      free_all(blocks);
      EXPECT_TRUE(in_bin(bytes) <= kMinPassedOnBlocks ||
                  in_bin(bytes) * kClassShapes[size_class].block_bytes <= kPassedOnBytes);
    });
    // Once it refills from slabs the bin may hold more.
    other.run([&] {
      blocks = allocate_many(3 * kBinShapes[size_class].capacity, bytes);
      EXPECT_GE(thread_state.cache->classes[size_class].bin_limit,
                std::min(kBinShapes[size_class].capacity, kLeastBinLimit));
      free_all(blocks);
    });
    other.run(flush_thread_cache);
  }
  expect_all_returned();
}

TEST_F(BinTest, ThePoolTakesWhatItHasRoomFor) {
  constexpr size_t kBytes = 16;
  const uint32_t size_class = size_class_of(kBytes);
  const uint32_t capacity = kBinShapes[size_class].capacity;
  std::vector<void*> blocks;
  OtherThread owner([&] { blocks = allocate_many(capacity + 1, kBytes); });
  std::vector<void*> own = allocate_many(capacity, kBytes);
  free_all(own);
  flush_thread_cache();
  ASSERT_EQ(thread_state.cache->classes[size_class].bin_limit, capacity);
  free_all(blocks);  // more than the pool takes
  EXPECT_EQ(heap.pool.pooled_blocks(size_class), SharedPool::kMaxBlocks);
  owner.run([&] {
    blocks = allocate_many(capacity + 1, kBytes);
    free_all(blocks);
    flush_thread_cache();
  });
  flush_thread_cache();
  expect_all_returned();
}

// Whoever it is that lets a second pass, the next refill from another slab gives back what nobody
// asked the pool for since the second before.
TEST_F(BinTest, PooledBlocksThatNobodyAsksForGoBackToTheirSlabs) {
  constexpr size_t kBytes = 512, kOtherBytes = 30000;
  const uint32_t size_class = size_class_of(kBytes);
  auto refill_from_other_slabs = [] {
    std::vector<void*> blocks = allocate_many(40, kOtherBytes);
    free_all(blocks);
  };
  OtherThread giver(test::start_process), taker(test::start_process);
  std::vector<void*> blocks = allocate_many(4 * kBinShapes[size_class].capacity, kBytes);
  giver.run([&] { free_all(blocks); });
  uint32_t given = heap.pool.pooled_blocks(size_class);
  void* taken = nullptr;
  taker.run([&] { taken = allocate(kBytes); });
  uint32_t left = heap.pool.pooled_blocks(size_class);
  ASSERT_LT(left, given);
  ASSERT_GT(left, 0u);
  test::let_a_second_pass();
  refill_from_other_slabs();
  EXPECT_EQ(heap.pool.pooled_blocks(size_class), left);
  refill_from_other_slabs();
  EXPECT_EQ(heap.pool.pooled_blocks(size_class), left);
  test::let_a_second_pass();
  refill_from_other_slabs();
  EXPECT_EQ(heap.pool.pooled_blocks(size_class), 0u);
  free(taken);
  taker.run(flush_thread_cache);
  giver.run(flush_thread_cache);
  expect_all_returned();
}

// Blocks in a thread's bin, while their slab goes through the hands of others.
class WanderingSlabTest : public BinTest {
 protected:
  static constexpr size_t kBytes = 1000;
  static constexpr uint32_t kFreed = 10;

  // Another thread allocates blocks of a slab, and this one frees half of them
  // into its bin; `meanwhile` is called before this one gives them back.
  void run(const std::function<void()>& meanwhile) {
    {
      OtherThread owner([&] { rest_ = allocate_many(2 * kFreed, kBytes); });
      owner_ = &owner;
      slab_ = slab_of_block(rest_[0]);
      for (uint32_t i = 0; i < kFreed; ++i) {
        free(rest_.back());
        rest_.pop_back();
      }
      meanwhile();
      ASSERT_EQ(in_bin(kBytes), kFreed);
      expect_rest_live();
      flush_thread_cache();
      EXPECT_EQ(in_bin(kBytes), 0u);
      expect_rest_live();
    }
    expect_rest_live();  // the owner has ended
    free_all(rest_);
    third_.run(flush_thread_cache);
    expect_all_returned();
  }

  void expect_rest_live() const {
    LiveCounts live{};
    live[size_class_of(kBytes)] = rest_.size();
    test::expect_books_balance(live);
  }

  // The owner takes what is left in the slab, and turns away from it.
  void exhaust() {
    owner_->run([&] {
      while (slab_->owner.load() == thread_state.cache->tag()) rest_.push_back(allocate(kBytes));
    });
    ASSERT_EQ(slab_->owner.load(), owner::kUnowned);
  }

  void free_one() {
    free(rest_.front());
    rest_.erase(rest_.begin());
  }

  std::vector<void*> rest_;  // the live blocks, the first in the slab
  Slab* slab_ = nullptr;
  OtherThread* owner_ = nullptr;
  OtherThread third_{test::start_process};
};

TEST_F(WanderingSlabTest, OwnedByAnother) {
  run([&] { EXPECT_NE(slab_->owner.load(), thread_state.cache->tag()); });
}

TEST_F(WanderingSlabTest, LeftByItsOwner) {
  run([&] {
    owner_->run(flush_thread_cache);
    EXPECT_EQ(slab_->owner.load(), owner::kPooled);
  });
}

TEST_F(WanderingSlabTest, OwnedByNobody) {
  run([&] { exhaust(); });
}

TEST_F(WanderingSlabTest, ClaimedByThisThread) {
  run([&] {
    exhaust();
    free_one();
    EXPECT_EQ(slab_->owner.load(), thread_state.cache->tag());
    rest_.insert(rest_.begin(), allocate(kBytes));
  });
}

TEST_F(WanderingSlabTest, ClaimedByAThird) {
  run([&] {
    exhaust();
    third_.run([&] {
      free_one();
      EXPECT_EQ(slab_->owner.load(), thread_state.cache->tag());
    });
  });
}

TEST_F(WanderingSlabTest, AdoptedByAThirdThatAllocatesFromIt) {
  run([&] {
    owner_->run(flush_thread_cache);
    third_.run([&] {
      rest_.push_back(allocate(kBytes));
      EXPECT_EQ(slab_of_block(rest_.back()), slab_);
      EXPECT_EQ(slab_->owner.load(), thread_state.cache->tag());
    });
  });
}

// A thread that comes to own more sleeping slabs than it may keep turns away from
// some, of which it still has blocks in its bin.
TEST_F(BinTest, BlocksOfSlabsThatTheThreadTurnedAwayFrom) {
  constexpr size_t kBytes = 1024;
  constexpr uint32_t kSlabs = 500, kWatched = 20;
  const uint32_t capacity = kClassShapes[size_class_of(kBytes)].capacity;
  OtherThread other(test::start_process);
  std::vector<void*> blocks = allocate_many(size_t{kSlabs} * capacity, kBytes);
  auto nth = [&](uint32_t slab, uint32_t i) -> void*& { return blocks[slab * capacity + i]; };
  LiveCounts live{};
  uint64_t& count = live[size_class_of(kBytes)];
  count = blocks.size();
  auto release = [&](void*& block) {
    free(block);
    block = nullptr;
    --count;
  };
  for (uint32_t i = 0; i < kWatched; ++i) release(nth(i, 0));
  for (uint32_t i = kWatched; i < kSlabs; ++i) {
    free(nth(i, 0));  // claims the slab
    ASSERT_EQ(nth(i, 0), allocate(kBytes));
  }
  ASSERT_EQ(in_bin(kBytes), kWatched);
  std::vector<uint32_t> unowned;
  for (uint32_t i = 0; i < kWatched; ++i)
    if (owner_of(nth(i, 1)) == owner::kUnowned) unowned.push_back(i);
  ASSERT_GE(unowned.size(), 4u);
  // Another thread claims every other one.
  other.run([&] {
    for (size_t i = 0; i < unowned.size(); i += 2) release(nth(unowned[i], 1));
  });
  test::expect_books_balance(live);
  flush_thread_cache();
  test::expect_books_balance(live);
  for (void* block : blocks) free(block);
  other.run(flush_thread_cache);
  expect_all_returned();
}

// What it claims while it frees what others allocated is left to them at once: it may free nothing more.
TEST_F(BinTest, AThreadThatPassesOnKeepsNoSlab) {
  constexpr size_t kBytes = 2048;
  const uint32_t capacity = kClassShapes[size_class_of(kBytes)].capacity;
  std::vector<void*> blocks;
  OtherThread owner([&] { blocks = allocate_many(2 * capacity, kBytes); });
  auto first =
      std::find_if(blocks.begin(), blocks.end(), [](void* block) { return owner_of(block) == owner::kUnowned; });
  ASSERT_NE(first, blocks.end());
  Slab* slab = slab_of_block(*first);
  free(*first);
  blocks.erase(first);
  EXPECT_EQ(slab->owner.load(), owner::kPooled);
  EXPECT_EQ(slab->listed(), 1u);
  EXPECT_EQ(in_bin(kBytes), 0u);
  LiveCounts live{};
  live[size_class_of(kBytes)] = blocks.size();
  test::expect_books_balance(live);
  free_all(blocks);
  owner.run(flush_thread_cache);
  flush_thread_cache();
  expect_all_returned();
}

TEST_F(BinTest, AThreadThatEndedLeavesNothingOnceItsCacheIsReleased) {
  std::vector<void*> foreign;
  for (uint32_t i = 0; i < kSizeClassCount; ++i)
    for (int k = 0; k < 3; ++k) foreign.push_back(allocate(kClassShapes[i].block_bytes));
  ThreadCache* cache = nullptr;
  run_in_thread([&] {
    std::vector<void*> blocks;
    for (uint32_t i = 0; i < kSizeClassCount; ++i)
      for (int k = 0; k < 50; ++k) blocks.push_back(allocate(kClassShapes[i].block_bytes));
    free_all(blocks);
    free_all(foreign);
    cache = thread_state.cache;
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < kSizeClassCount; ++i) waiting += cache->blocks_in_bin(i);
    EXPECT_GT(waiting, 1000u);
  });
  flush_thread_cache();
  for (uint32_t i = 0; i < kSizeClassCount; ++i) EXPECT_EQ(cache->blocks_in_bin(i), 0u) << i;
  expect_all_returned();
}

}  // namespace
}  // namespace hakmem
