#include "allocator/page_arena/private_heap.h"

#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "tests/unit/support/build.h"
#include "tests/unit/support/fake_memory.h"
#include "tests/unit/support/random.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using Heap = PrivateHeap<test::FakeMemory>;

class PrivateHeapTest : public testing::Test {
 protected:
  PrivateHeapTest() { EXPECT_TRUE(heap_->open()); }

  char* allocate(size_t bytes, size_t alignment = 1) { return static_cast<char*>(heap_->allocate(bytes, alignment)); }
  // Twice the time for which pages are kept, and a little.
  void let_much_time_pass() {
    for (int second = 0; second < 35; ++second) heap_->let_time_pass(now_ += 1000);
  }
  uint64_t purges() const { return kernel_.calls(test::Call::kPurge); }

  test::FakeKernel kernel_;
  std::unique_ptr<Heap> heap_ = std::make_unique<Heap>();
  uint64_t now_ = 1000;
};

TEST_F(PrivateHeapTest, HasNothingBeforeItIsOpen) {
  Heap closed;
  EXPECT_FALSE(closed.contains(&closed));
  EXPECT_FALSE(closed.contains(nullptr));
  EXPECT_EQ(closed.allocate(1, 1), nullptr);
  EXPECT_FALSE(closed.free(&closed));
  EXPECT_EQ(closed.usable_bytes(&closed), 0u);
  closed.let_time_pass(1'000'000);
  EXPECT_TRUE(closed.is_consistent());
}

TEST_F(PrivateHeapTest, OpensOnceAndTakesASmallShareOfWhatIsThere) {
  uint64_t reservations = kernel_.calls(test::Call::kReserve);
  EXPECT_TRUE(heap_->open());
  EXPECT_EQ(kernel_.calls(test::Call::kReserve), reservations);
  EXPECT_EQ(heap_->bytes(), Heap::kMostBytes);

  kernel_.set_address_space_limit(size_t{1} << 40);
  Heap limited;
  EXPECT_TRUE(limited.open());
  EXPECT_EQ(limited.bytes(), Heap::kMostWhereLimited);
  kernel_.set_address_space_limit(80 * kMiB);
  Heap small;
  EXPECT_TRUE(small.open());
  EXPECT_EQ(small.bytes(), 5 * kMiB);
  EXPECT_NE(small.allocate(4 * kMiB, 1), nullptr);
  EXPECT_EQ(small.allocate(2 * kMiB, 1), nullptr);
  EXPECT_NE(small.allocate(kMiB / 2, 1), nullptr);
  EXPECT_TRUE(small.is_consistent());

  kernel_.set_address_space_limit(kMiB);
  Heap none;
  EXPECT_FALSE(none.open());
  kernel_.set_address_space_limit(SIZE_MAX);
  kernel_.fail_always(test::Call::kReserve);
  EXPECT_FALSE(none.open());
  EXPECT_EQ(none.allocate(1, 1), nullptr);
  kernel_.recover();
  EXPECT_TRUE(none.open());
}

TEST_F(PrivateHeapTest, BlocksAreApartAlignedAndOfTheSizeAsked) {
  std::vector<char*> blocks;
  for (size_t bytes : {0, 1, 15, 16, 17, 31, 32, 33, 100, 4096, 70'000}) {
    char* block = allocate(bytes);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % Heap::kAlignment, 0u);
    EXPECT_TRUE(heap_->contains(block));
    EXPECT_GE(heap_->usable_bytes(block), std::max<size_t>(bytes, 1));
    EXPECT_LT(heap_->usable_bytes(block), bytes + 32);
    memset(block, static_cast<int>(blocks.size()), heap_->usable_bytes(block));
    blocks.push_back(block);
  }
  for (size_t i = 0; i < blocks.size(); ++i)
    for (size_t at = 0; at < heap_->usable_bytes(blocks[i]); ++at) ASSERT_EQ(blocks[i][at], static_cast<char>(i));
  EXPECT_TRUE(heap_->is_consistent());
  for (char* block : blocks) EXPECT_TRUE(heap_->free(block));
  EXPECT_TRUE(heap_->is_consistent());
}

TEST_F(PrivateHeapTest, AlignmentCostsNothingThatCannotBeUsed) {
  char* first = allocate(100);
  std::vector<char*> aligned;
  for (size_t alignment = 16; alignment <= kMiB; alignment *= 2) {
    aligned.push_back(allocate(40, alignment));
    ASSERT_NE(aligned.back(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned.back()) % alignment, 0u);
    EXPECT_LT(heap_->usable_bytes(aligned.back()), 80u);
    EXPECT_TRUE(heap_->is_consistent());
  }
  char* between = allocate(kMiB / 2);  // before the last of them
  EXPECT_LT(between, aligned.back());
  EXPECT_TRUE(heap_->free(between));
  for (char* block : aligned) EXPECT_TRUE(heap_->free(block));
  EXPECT_TRUE(heap_->is_consistent());
  EXPECT_TRUE(heap_->free(first));
  EXPECT_EQ(allocate(100), first);  // all of it is one again
}

TEST_F(PrivateHeapTest, WhatIsNoLiveBlockIsRefused) {
  char* block = allocate(1000);
  char* next = allocate(1000);
  for (const void* wrong : {static_cast<const void*>(block + 16), static_cast<const void*>(block + 8),
                            static_cast<const void*>(block - 16), static_cast<const void*>(next + 2000),
                            reinterpret_cast<const void*>(heap_->base()), static_cast<const void*>(&block)}) {
    EXPECT_FALSE(heap_->free(const_cast<void*>(wrong)));
    EXPECT_EQ(heap_->usable_bytes(wrong), 0u);
  }
  EXPECT_TRUE(heap_->free(block));
  EXPECT_FALSE(heap_->free(block));
  EXPECT_EQ(heap_->usable_bytes(block), 0u);
  EXPECT_TRUE(heap_->free(next));
  EXPECT_FALSE(heap_->free(next));
}

TEST_F(PrivateHeapTest, WhereTheKernelRefusesNothingIsLost) {
  char* block = allocate(100);
  kernel_.fail_always(test::Call::kCommit);
  EXPECT_EQ(allocate(10 * kMiB), nullptr);
  EXPECT_EQ(allocate(SIZE_MAX), nullptr);
  EXPECT_EQ(allocate(100, size_t{1} << 62), nullptr);
  EXPECT_NE(allocate(100), nullptr);  // of what is committed
  EXPECT_TRUE(heap_->is_consistent());
  kernel_.recover();
  EXPECT_NE(allocate(10 * kMiB), nullptr);
  EXPECT_TRUE(heap_->free(block));
  EXPECT_TRUE(heap_->is_consistent());
}

TEST_F(PrivateHeapTest, PagesThatAreNotNeededGoBack) {
  std::vector<char*> blocks;
  for (int i = 0; i < 3; ++i) {
    blocks.push_back(allocate(kMiB));
    memset(blocks.back(), 1, kMiB);
  }
  let_much_time_pass();
  EXPECT_EQ(purges(), 0u);
  // The end, and then what is free between live blocks.
  EXPECT_TRUE(heap_->free(blocks[2]));
  let_much_time_pass();
  EXPECT_EQ(purges(), 1u);
  char* again = allocate(kMiB);
  EXPECT_EQ(again, blocks[2]);
  EXPECT_EQ(again[kMiB / 2], 0);
  EXPECT_TRUE(heap_->free(blocks[1]));
  let_much_time_pass();
  EXPECT_EQ(purges(), 2u);
  let_much_time_pass();
  EXPECT_EQ(purges(), 2u) << "there is nothing left of it";
  EXPECT_EQ(allocate(kMiB), blocks[1]);
  EXPECT_EQ(blocks[1][kMiB / 2], 0);
  EXPECT_EQ(blocks[0][kMiB / 2], 1);
  EXPECT_TRUE(heap_->is_consistent());
}

TEST_F(PrivateHeapTest, WhatIsNeededAgainAndAgainIsKept) {
  for (int minute = 0; minute < 600; ++minute) {
    char* block = allocate(kMiB);
    memset(block, 1, kMiB);
    char* above = minute == 300 ? allocate(100) : nullptr;  // from now on it stands between others
    EXPECT_TRUE(heap_->free(block));
    EXPECT_EQ(above != nullptr, minute == 300);
    heap_->let_time_pass(now_ += 1000);
  }
  EXPECT_EQ(purges(), 0u);
}

// Against a model: random sizes and alignments, content that stays, and a heap that is one chunk at the end.
TEST_F(PrivateHeapTest, RandomOperations) {
  test::Random random(7);
  struct Content {
    size_t bytes;
    char value;
  };
  std::map<char*, Content> live;
  for (uint32_t i = 0; i < test::rounds(40'000); ++i) {
    if (random.below(100) < 48 && !live.empty()) {
      auto victim = live.lower_bound(reinterpret_cast<char*>(heap_->base() + random.next() % (4 * kMiB)));
      if (victim == live.end()) victim = live.begin();
      auto [block, content] = *victim;
      for (size_t at : {size_t{0}, content.bytes / 2, content.bytes - 1}) ASSERT_EQ(block[at], content.value);
      ASSERT_TRUE(heap_->free(block));
      live.erase(victim);
    } else {
      size_t alignment = random.below(8) == 0 ? size_t{1} << random.below(14) : 1;
      size_t bytes = random.log_uniform(random.below(50) == 0 ? 18 : 11);
      char* block = allocate(bytes, alignment);
      ASSERT_NE(block, nullptr);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(block) % alignment, 0u);
      size_t usable = heap_->usable_bytes(block);
      ASSERT_GE(usable, bytes);
      auto after = live.upper_bound(block);
      ASSERT_TRUE(after == live.end() || block + usable <= after->first);
      if (after != live.begin()) {
        auto before = std::prev(after);
        ASSERT_LE(before->first + before->second.bytes, block);
      }
      auto value = static_cast<char>(i);
      memset(block, value, usable);
      live[block] = {usable, value};
    }
    if (i % 500 == 0) {
      ASSERT_TRUE(heap_->is_consistent());
      heap_->let_time_pass(now_ += 1000);
    }
  }
  for (auto& [block, content] : live) ASSERT_TRUE(heap_->free(block));
  EXPECT_TRUE(heap_->is_consistent());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(allocate(1)), heap_->base() + 16);
}

TEST_F(PrivateHeapTest, AnyThreadFrees) {
  std::vector<char*> blocks(4000);
  test::run_threads(4, [&](uint32_t thread) {
    for (size_t i = thread; i < blocks.size(); i += 4) blocks[i] = allocate(1 + i % 700);
  });
  test::run_threads(4, [&](uint32_t thread) {
    for (size_t i = thread; i < blocks.size(); i += 4) EXPECT_TRUE(heap_->free(blocks[blocks.size() - 1 - i]));
  });
  EXPECT_TRUE(heap_->is_consistent());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(allocate(1)), heap_->base() + 16);
}

}  // namespace
}  // namespace hakmem
