#include "allocator/page_arena/huge_heap.h"

#include <gtest/gtest.h>
#include <string.h>

#include <map>
#include <memory>
#include <vector>

#include "tests/unit/support/build.h"
#include "tests/unit/support/fake_memory.h"
#include "tests/unit/support/random.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::Call;
using test::FakeKernel;
using test::FakeMemory;
using Arena = PageArena<FakeMemory>;
using Huge = HugeHeap<FakeMemory>;

constexpr size_t kHeld = PurgePolicy::kMinHoldBack;

// Where addresses are limited, each allocation is a mapping of its own; HugeRegionTest has the rest.
class HugeHeapTest : public testing::Test {
 protected:
  HugeHeapTest() { kernel_.set_address_space_limit(size_t{1} << 46); }

  void* allocate(size_t bytes, size_t alignment = kPageBytes) { return huge_.allocate(bytes, alignment, 0).address; }

  struct Visited {
    uint32_t live = 0, retained = 0;
    size_t live_bytes = 0, retained_bytes = 0, requested_bytes = 0;
  };
  Visited visit() const {
    Visited visited;
    huge_.visit([&](uintptr_t, size_t bytes, size_t requested) {
      (requested > 0 ? visited.live : visited.retained) += 1;
      (requested > 0 ? visited.live_bytes : visited.retained_bytes) += bytes;
      visited.requested_bytes += requested;
    });
    return visited;
  }

  FakeKernel kernel_;
  std::unique_ptr<Arena> arena_ = std::make_unique<Arena>();
  Huge huge_{*arena_};
};

TEST_F(HugeHeapTest, AllocatesAndFrees) {
  auto [address, zeroed] = huge_.allocate(3 * kMiB + 1, kPageBytes, 0);
  ASSERT_NE(address, nullptr);
  EXPECT_TRUE(zeroed);
  EXPECT_EQ(huge_.usable_bytes(address), 3 * kMiB + kPageBytes);
  memset(address, 1, 3 * kMiB + kPageBytes);
  EXPECT_EQ(visit().live, 1u);
  EXPECT_EQ(visit().requested_bytes, 3 * kMiB + 1);
  EXPECT_TRUE(huge_.free(address, 0));
  EXPECT_EQ(huge_.usable_bytes(address), 0u);
  EXPECT_EQ(visit().live, 0u);
  EXPECT_EQ(visit().retained, 1u);
  EXPECT_EQ(huge_.purge(0), 3 * kMiB + kPageBytes);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
}

TEST_F(HugeHeapTest, UnknownAddressesAreRefused) {
  int on_stack = 0;
  EXPECT_FALSE(huge_.free(&on_stack, 0));  // before there is a table
  EXPECT_EQ(huge_.usable_bytes(&on_stack), 0u);
  EXPECT_EQ(huge_.resize(&on_stack, kMiB, 0), nullptr);
  auto* block = static_cast<char*>(allocate(2 * kMiB));
  EXPECT_FALSE(huge_.free(nullptr, 0));
  EXPECT_FALSE(huge_.free(&on_stack, 0));
  EXPECT_FALSE(huge_.free(block + 16, 0));
  EXPECT_FALSE(huge_.free(block + kPageBytes, 0));
  EXPECT_EQ(huge_.usable_bytes(block + kPageBytes), 0u);
  EXPECT_TRUE(huge_.free(block, 0));
  EXPECT_FALSE(huge_.free(block, 0));  // retained, but not live
  EXPECT_EQ(huge_.resize(block, 3 * kMiB, 0), nullptr);
}

TEST_F(HugeHeapTest, RetainedMappingsAreUsedAgain) {
  void* first = allocate(4 * kMiB);
  memset(first, 7, 4 * kMiB);
  EXPECT_TRUE(huge_.free(first, 0));
  uint64_t maps = kernel_.calls(Call::kMap);
  auto again = huge_.allocate(4 * kMiB - 100000, kPageBytes, 0);  // an eighth may be wasted
  EXPECT_EQ(again.address, first);
  EXPECT_FALSE(again.zeroed);
  EXPECT_EQ(kernel_.calls(Call::kMap), maps);
  EXPECT_EQ(huge_.usable_bytes(first), 4 * kMiB);
  EXPECT_EQ(visit().requested_bytes, 4 * kMiB - 100000);
  EXPECT_TRUE(huge_.free(first, 0));
  EXPECT_EQ(kernel_.calls(Call::kMap), maps);
  void* aligned = allocate(4 * kMiB, 64 * kMiB);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % (64 * kMiB), 0u);
}

TEST_F(HugeHeapTest, TheRetainedMappingThatFitsBestIsCut) {
  std::vector<char*> blocks;
  for (size_t mib : {9, 6, 12}) blocks.push_back(static_cast<char*>(allocate(mib * kMiB)));
  for (char* block : blocks) EXPECT_TRUE(huge_.free(block, 0));
  char* six = blocks[1];
  uint64_t maps = kernel_.calls(Call::kMap);
  EXPECT_EQ(allocate(4 * kMiB), six);
  EXPECT_EQ(huge_.usable_bytes(six), 4 * kMiB);
  EXPECT_EQ(allocate(2 * kMiB), six + 4 * kMiB);  // what was left
  EXPECT_EQ(visit().retained_bytes, 21 * kMiB);
  EXPECT_EQ(kernel_.calls(Call::kMap), maps);
  // The pieces are one again when both are free, whichever goes first.
  for (bool tail_first : {false, true}) {
    EXPECT_TRUE(huge_.free(tail_first ? six + 4 * kMiB : six, 0));
    EXPECT_TRUE(huge_.free(tail_first ? six : six + 4 * kMiB, 0));
    EXPECT_EQ(visit().retained, 3u);
    EXPECT_FALSE(huge_.free(six, 0));
    EXPECT_FALSE(huge_.free(six + 4 * kMiB, 0));
    EXPECT_EQ(allocate(4 * kMiB), six);
    EXPECT_EQ(allocate(2 * kMiB), six + 4 * kMiB);
  }
  EXPECT_TRUE(huge_.free(six, 0));
  EXPECT_TRUE(huge_.free(six + 4 * kMiB, 0));
  EXPECT_EQ(huge_.purge(0), 27 * kMiB);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
}

TEST_F(HugeHeapTest, TheLargestRetainedMappingIsGrown) {
  for (bool moves : {false, true}) {
    kernel_.move_at_remap(moves);
    auto* block = static_cast<char*>(allocate(8 * kMiB));
    memset(block, 7, 8 * kMiB);
    EXPECT_TRUE(huge_.free(block, 0));
    uint64_t maps = kernel_.calls(Call::kMap);
    auto [grown, zeroed] = huge_.allocate(16 * kMiB, kPageBytes, 0);
    ASSERT_NE(grown, nullptr);
    EXPECT_EQ(kernel_.calls(Call::kMap), maps);
    EXPECT_FALSE(zeroed);
    // Its pages came along.
    EXPECT_EQ(static_cast<char*>(grown)[8 * kMiB - 1], has(Mitigation::kZeroOnFree) ? 0 : 7);
    memset(grown, 1, 16 * kMiB);
    EXPECT_EQ(huge_.usable_bytes(grown), 16 * kMiB);
    EXPECT_EQ(kernel_.mapped_bytes(), 16 * kMiB);
    EXPECT_TRUE(huge_.free(grown, 0));
    EXPECT_TRUE(huge_.allocate(33 * kMiB, kPageBytes, 0).zeroed);  // less than half of it
    huge_.purge(0);
    EXPECT_TRUE(huge_.free(allocate(16 * kMiB), 0));
    kernel_.fail_always(Call::kRemap);
    EXPECT_TRUE(huge_.allocate(17 * kMiB, kPageBytes, 0).zeroed);
    kernel_.recover();
    EXPECT_EQ(kernel_.mapped_bytes(), visit().live_bytes);
    huge_.visit([&](uintptr_t address, size_t, size_t) { huge_.free(reinterpret_cast<void*>(address), 0); });
    huge_.purge(0);
    EXPECT_EQ(kernel_.mapped_bytes(), 0u);
  }
}

// What was given back and is mapped again widens the hold-back; time narrows it.
TEST_F(HugeHeapTest, ChurnWidensTheHoldBack) {
  auto churn = [&] {
    void* block = allocate(kHeld + 28 * kMiB);
    EXPECT_TRUE(huge_.free(block, 0));
  };
  churn();
  EXPECT_LE(visit().retained_bytes, kHeld);
  churn();
  churn();
  EXPECT_EQ(visit().retained_bytes, kHeld + 28 * kMiB);
  uint64_t remaps = kernel_.calls(Call::kRemap);
  churn();
  EXPECT_EQ(kernel_.calls(Call::kRemap), remaps);
  for (int second = 0; second < 10; ++second) huge_.decay(0);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
}

TEST_F(HugeHeapTest, RetainsNoMoreThanTheHoldBack) {
  std::vector<void*> blocks;
  for (int i = 0; i < 30; ++i) blocks.push_back(allocate(5 * kMiB));
  for (void* block : blocks) {
    EXPECT_TRUE(huge_.free(block, 0));
    EXPECT_LE(visit().retained_bytes, kHeld);
    EXPECT_EQ(kernel_.mapped_bytes(), visit().retained_bytes + visit().live_bytes);
  }
  EXPECT_EQ(visit().live, 0u);
  EXPECT_GE(visit().retained_bytes, kHeld - 2 * kMiB);
}

TEST_F(HugeHeapTest, WhatExceedsTheHoldBackGoesAtOnce) {
  EXPECT_TRUE(huge_.free(allocate(kHeld + 68 * kMiB), 0));
  EXPECT_LE(kernel_.mapped_bytes(), kHeld);
  EXPECT_GE(kernel_.mapped_bytes(), kHeld - 2 * kMiB);
}

TEST_F(HugeHeapTest, RetainsAFewMappingsOnly) {
  std::vector<void*> blocks;
  for (uint32_t i = 0; i < kMaxRetained + 8; ++i) blocks.push_back(allocate(kPageBytes));
  for (void* block : blocks) EXPECT_TRUE(huge_.free(block, 0));
  EXPECT_EQ(visit().retained, kMaxRetained);
  EXPECT_EQ(kernel_.mapped_bytes(), kMaxRetained * kPageBytes);
}

TEST_F(HugeHeapTest, ResizesInPlaceAndByMoving) {
  for (bool moves : {false, true}) {
    kernel_.move_at_remap(moves);
    auto* block = static_cast<unsigned char*>(allocate(2 * kMiB));
    for (size_t i = 0; i < 2 * kMiB; i += 64) block[i] = static_cast<unsigned char>(i / 64);
    auto* grown = static_cast<unsigned char*>(huge_.resize(block, 9 * kMiB + 5, 0));
    ASSERT_NE(grown, nullptr);
    EXPECT_EQ(huge_.usable_bytes(grown), 9 * kMiB + kPageBytes);
    if (grown != block) {
      EXPECT_FALSE(huge_.free(block, 0));
    }
    EXPECT_TRUE(!moves || grown != block);
    for (size_t i = 0; i < 2 * kMiB; i += 64) ASSERT_EQ(grown[i], static_cast<unsigned char>(i / 64));
    memset(grown + 2 * kMiB, 1, 7 * kMiB + kPageBytes);
    // Within the pages it has: no system call.
    uint64_t remaps = kernel_.calls(Call::kRemap);
    EXPECT_EQ(huge_.resize(grown, 9 * kMiB + 6, 0), grown);
    EXPECT_EQ(kernel_.calls(Call::kRemap), remaps);
    EXPECT_EQ(visit().requested_bytes, 9 * kMiB + 6);
    auto* shrunk = static_cast<unsigned char*>(huge_.resize(grown, kMiB, 0));
    ASSERT_NE(shrunk, nullptr);
    EXPECT_EQ(huge_.usable_bytes(shrunk), kMiB);
    for (size_t i = 0; i < kMiB; i += 64) ASSERT_EQ(shrunk[i], static_cast<unsigned char>(i / 64));
    EXPECT_EQ(visit().live, 1u);
    EXPECT_EQ(visit().live_bytes, kMiB);
    EXPECT_TRUE(huge_.free(shrunk, 0));
    huge_.purge(0);
    EXPECT_EQ(kernel_.mapped_bytes(), 0u);
  }
}

TEST_F(HugeHeapTest, ARefusedResizeChangesNothing) {
  auto* block = static_cast<char*>(allocate(2 * kMiB));
  strcpy(block, "content");
  kernel_.fail_always(Call::kRemap);
  EXPECT_EQ(huge_.resize(block, 4 * kMiB, 0), nullptr);
  EXPECT_STREQ(block, "content");
  EXPECT_EQ(huge_.usable_bytes(block), 2 * kMiB);
  EXPECT_EQ(visit().requested_bytes, 2 * kMiB);
  kernel_.recover();
  EXPECT_NE(huge_.resize(block, 4 * kMiB, 0), nullptr);
}

// Random deletions while there are many.
TEST_F(HugeHeapTest, TheTableGrowsAndLosesNobody) {
  test::Random random(7);
  std::map<void*, size_t> live;
  size_t most = 0;
  const uint32_t steps = test::rounds(6000);
  for (uint32_t step = 0; step < steps; ++step) {
    size_t target = 40 + step * 300 / steps;  // past several growths
    if (live.size() < target) {
      size_t bytes = (1 + random.below(3)) * kPageBytes;
      void* address = allocate(bytes - random.below(100));
      ASSERT_NE(address, nullptr);
      ASSERT_FALSE(live.contains(address));
      live[address] = huge_.usable_bytes(address);
      ASSERT_GE(live[address], bytes);
      *static_cast<size_t*>(address) = step;
    } else {
      uint32_t burst = 1 + random.below(40);
      while (burst-- > 0 && !live.empty()) {
        auto victim = std::next(live.begin(), static_cast<std::ptrdiff_t>(random.next() % live.size()));
        ASSERT_TRUE(huge_.free(victim->first, 0));
        ASSERT_EQ(huge_.usable_bytes(victim->first), 0u);
        live.erase(victim);
      }
    }
    most = std::max(most, live.size());
    if (step % 16 == 0) {
      size_t bytes = 0;
      for (auto [address, usable] : live) {
        ASSERT_EQ(huge_.usable_bytes(address), usable) << "an entry was lost";
        bytes += usable;
      }
      ASSERT_EQ(visit().live, live.size());
      ASSERT_EQ(visit().live_bytes, bytes);
      ASSERT_EQ(kernel_.mapped_bytes(), bytes + visit().retained_bytes);
    }
  }
  EXPECT_GT(most, 250u);
  while (!live.empty()) {
    ASSERT_TRUE(huge_.free(live.begin()->first, 0));
    live.erase(live.begin());
  }
  huge_.purge(0);
  EXPECT_EQ(visit().live + visit().retained, 0u);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
}

TEST_F(HugeHeapTest, EverySingleRefusalIsSurvived) {
  for (Call call : {Call::kMap, Call::kReserve, Call::kCommit})
    for (uint64_t nth = 1;; ++nth) {
      Arena arena;
      Huge huge(arena);
      kernel_.fail(call, nth);
      uint64_t refusals = kernel_.refusals(call);
      std::vector<void*> blocks;
      uint32_t nulls = 0;
      while (blocks.size() < 200) {  // past two growths of the table
        void* address = huge.allocate(kPageBytes, kPageBytes, 0).address;
        nulls += address == nullptr;
        ASSERT_LE(nulls, 1u);
        if (address != nullptr) blocks.push_back(address);
      }
      bool refused = kernel_.refusals(call) > refusals;
      EXPECT_EQ(nulls, refused ? 1u : 0u);
      for (void* block : blocks) ASSERT_TRUE(huge.free(block, 0));
      huge.purge(0);
      EXPECT_EQ(kernel_.mapped_bytes(), 0u);
      kernel_.recover();
      if (!refused || nth > 40) break;
    }
}

TEST_F(HugeHeapTest, AKernelThatGivesNothingAndRecovers) {
  void* before = allocate(2 * kMiB);
  for (Call call : {Call::kMap, Call::kReserve, Call::kCommit}) {
    kernel_.fail_always(call);
    bool fails = false;
    for (int i = 0; i < 60; ++i) fails |= allocate(8 * kMiB) == nullptr;  // growth needs metadata in the end
    EXPECT_EQ(fails, call == Call::kMap || kernel_.refusals(call) > 0);
    kernel_.recover();
    EXPECT_NE(allocate(kMiB), nullptr);
    EXPECT_EQ(huge_.usable_bytes(before), 2 * kMiB);
  }
}

TEST_F(HugeHeapTest, TimeGivesBackWhatIsRetained) {
  std::vector<void*> blocks;
  for (size_t mib : {2, 24}) blocks.push_back(allocate(mib * kMiB));
  for (void* block : blocks) EXPECT_TRUE(huge_.free(block, 0));
  EXPECT_EQ(visit().retained, 2u);
  huge_.decay(0);
  EXPECT_EQ(kernel_.mapped_bytes(), 24 * kMiB);  // the oldest first
  huge_.decay(0);
  EXPECT_EQ(kernel_.mapped_bytes(), 8 * kMiB);  // not all of it at once
  huge_.decay(0);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
  huge_.decay(0);
}

TEST_F(HugeHeapTest, ThreadsDoNotMeet) {
  constexpr uint32_t kThreads = 4;
  std::atomic<uint32_t> running{kThreads};
  test::run_threads(kThreads + 1, [&](uint32_t thread) {
    if (thread == kThreads) {  // looks on without the lock
      while (running.load() > 0) {
        size_t bytes = 0;
        huge_.visit([&](uintptr_t address, size_t mapped, size_t) {
          EXPECT_EQ(address % kPageBytes, 0u);
          bytes += mapped;
        });
        EXPECT_LT(bytes, kGiB);
      }
      return;
    }
    test::Random random(thread);
    std::vector<std::pair<uint64_t*, uint64_t>> blocks;
    for (uint32_t i = 0; i < test::rounds(4000); ++i) {
      uint64_t tag = uint64_t{thread} << 32 | i;
      if (blocks.size() < 20) {
        auto* block = static_cast<uint64_t*>(allocate((1 + random.below(64)) * kPageBytes));
        ASSERT_NE(block, nullptr);
        *block = tag;
        blocks.emplace_back(block, tag);
        continue;
      }
      size_t index = random.next() % blocks.size();
      auto& [block, content] = blocks[index];
      ASSERT_EQ(*block, content);
      if (random.below(3) == 0) {
        size_t bytes = (1 + random.below(64)) * kPageBytes;
        auto* resized = static_cast<uint64_t*>(huge_.resize(block, bytes, 0));
        if (resized == nullptr) {  // better copied
          resized = static_cast<uint64_t*>(allocate(bytes));
          ASSERT_NE(resized, nullptr);
          *resized = *block;
          ASSERT_TRUE(huge_.free(block, 0));
        }
        block = resized;
        ASSERT_EQ(*block, content);
      } else {
        ASSERT_TRUE(huge_.free(block, 0));
        blocks[index] = blocks.back();
        blocks.pop_back();
      }
    }
    for (auto [block, content] : blocks) EXPECT_TRUE(*block == content && huge_.free(block, 0));
    running.fetch_sub(1);
  });
  huge_.purge(0);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
}

}  // namespace
}  // namespace hakmem
