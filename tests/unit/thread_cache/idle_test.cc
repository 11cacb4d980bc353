// What a thread gives back of classes that it uses no more: when, how much, and to whom.
#include <gtest/gtest.h>

#include <vector>

#include "allocator/api/allocator.h"
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
using test::in_bin;
using test::let_a_second_pass;
using test::OtherThread;
using test::state_of;

constexpr size_t kBytes = 512;

void use(size_t bytes, size_t count) {
  for (void* block : allocate_many(count, bytes)) free(block);
}

void let_time_pass() {
  for (uint32_t i = 0; i < kSecondsBetweenLooks; ++i) let_a_second_pass();
  while (thread_state.cache->age != heap.age()) release_idle(thread_state.cache);
}

class IdleTest : public testing::Test {
 protected:
  IdleTest() {
    test::start_process();
    flush_thread_cache();
    let_time_pass();
  }
  ~IdleTest() override {
    flush_thread_cache();
    test::expect_books_balance({});
    EXPECT_EQ(test::unsampled_slabs(), 0u);
  }

  test::SampleInterval interval_{0};
};

TEST_F(IdleTest, BlocksOfAClassThatIsNotUsedGoBackAndWithThemItsSlab) {
  use(kBytes, 20);
  ASSERT_GE(in_bin(kBytes), 20u);
  let_time_pass();
  EXPECT_GT(in_bin(kBytes), 0u);  // it was used since the look before
  let_time_pass();
  let_time_pass();
  EXPECT_EQ(in_bin(kBytes), 0u);
  EXPECT_EQ(state_of(kBytes).current, nullptr);
  void* block = allocate(kBytes);
  EXPECT_NE(block, nullptr);
  free(block);
}

TEST_F(IdleTest, ABinThatNeedsNoRefillIsHalved) {
  use(kBytes, 60);
  let_time_pass();
  uint32_t full = in_bin(kBytes);
  ASSERT_GE(full, 60u);
  for (uint32_t kept = full; kept > 8; kept -= kept / 2) {
    ASSERT_EQ(in_bin(kBytes), kept);
    use(kBytes, 2);
    let_time_pass();
  }
}

TEST_F(IdleTest, ABinThatIsRefilledIsLeftAlone) {
  for (int i = 0; i < 4; ++i) {
    use(kBytes, 2 * kBinShapes[size_class_of(kBytes)].capacity);
    uint32_t before = in_bin(kBytes);
    let_time_pass();
    EXPECT_EQ(in_bin(kBytes), before);
  }
}

TEST_F(IdleTest, PairsOfMallocAndFreeAreUse) {
  for (size_t bytes : {size_t{64}, kBytes, size_t{20'000}, size_t{60'000}}) {
    free(allocate(bytes));
    for (int i = 0; i < 4; ++i) {
      // A full round of the count of frees, where there is one.
      for (uint32_t pair = 0; pair < kBinShapes[size_class_of(bytes)].capacity; ++pair) free(allocate(bytes));
      let_time_pass();
      EXPECT_GT(in_bin(bytes), 0u) << bytes;
    }
    let_time_pass();
    EXPECT_EQ(in_bin(bytes), 0u) << bytes;
  }
}

// Half of the blocks of six slabs, each second one.
std::vector<void*> halve_slabs() {
  std::vector<void*> blocks = allocate_many(6 * kClassShapes[size_class_of(kBytes)].capacity, kBytes);
  std::vector<void*> kept;
  for (size_t i = 0; i < blocks.size(); ++i) i % 2 == 0 ? kept.push_back(blocks[i]) : free(blocks[i]);
  return kept;
}

TEST_F(IdleTest, SlabsOfAUsedClassThatNoRefillNeedsGoToOtherThreads) {
  std::vector<void*> kept = halve_slabs();
  uint32_t available = state_of(kBytes).available_count;
  ASSERT_GE(available, 2u);
  auto pass_looks = [] {
    for (int i = 0; i < 3; ++i) {
      let_time_pass();
      use(kBytes, 2);
    }
  };
  pass_looks();
  EXPECT_GE(state_of(kBytes).available_count, available) << "there are no others";
  OtherThread other([] { free(allocate(kBytes)); });
  pass_looks();
  EXPECT_EQ(state_of(kBytes).available_count, 0u);
  size_t slabs = heap_totals().slabs;
  std::vector<void*> theirs;
  other.run([&] { theirs = allocate_many(kClassShapes[size_class_of(kBytes)].capacity, kBytes); });
  EXPECT_LE(heap_totals().slabs, slabs) << "not those that the thread let go of";
  other.run([&] {
    for (void* block : theirs) free(block);
    flush_thread_cache();
  });
  for (void* block : kept) free(block);
}

// Slabs that became available since refills last had none of them.
TEST_F(IdleTest, SlabsThatRefillsMissedAreKept) {
  OtherThread other([] { free(allocate(kBytes)); });
  let_time_pass();
  for (int i = 0; i < 3; ++i) {
    std::vector<void*> kept = halve_slabs();  // takes new slabs, as there are none
    uint32_t available = state_of(kBytes).available_count;
    ASSERT_GE(available, 2u);
    let_time_pass();
    EXPECT_GE(state_of(kBytes).available_count, available) << i;
    for (void* block : kept) free(block);
    flush_thread_cache();
  }
}

TEST_F(IdleTest, SlabsThatRefillsComeToAreKept) {
  OtherThread other([] { free(allocate(kBytes)); });
  std::vector<void*> kept = halve_slabs();
  uint32_t available = state_of(kBytes).available_count;
  ASSERT_GE(available, 2u);
  for (int i = 0; i < 3; ++i) {
    use(kBytes, kept.size());
    let_time_pass();
    EXPECT_GE(state_of(kBytes).available_count + 1, available);
  }
  for (void* block : kept) free(block);
}

TEST_F(IdleTest, OneSecondAloneIsNotLongEnough) {
  use(kBytes, 20);
  let_time_pass();
  uint32_t before = in_bin(kBytes);
  let_a_second_pass();
  free(allocate(5000));  // a refill
  EXPECT_EQ(in_bin(kBytes), before);
}

TEST_F(IdleTest, LiveBlocksKeepTheirSlab) {
  void* block = allocate(kBytes);
  for (int i = 0; i < 3; ++i) let_time_pass();
  EXPECT_EQ(in_bin(kBytes), 0u);
  EXPECT_NE(state_of(kBytes).current, nullptr);
  free(block);
}

TEST_F(IdleTest, ACallOfTheProgramGivesBackSomeAndTheNextTheRest) {
  constexpr size_t kClasses = 10, kEach = 200;
  auto in_bins = [] {
    size_t blocks = 0;
    for (size_t i = 1; i <= kClasses; ++i) blocks += in_bin(16 * i);
    return blocks;
  };
  for (size_t i = 1; i <= kClasses; ++i) use(16 * i, kEach);
  let_time_pass();
  size_t before = in_bins();
  ASSERT_GE(before, kClasses * kEach);
  for (uint32_t i = 0; i < kSecondsBetweenLooks; ++i) let_a_second_pass();
  free(allocate(kBytes));  // a refill
  EXPECT_LT(in_bins(), before);
  EXPECT_GT(in_bins(), before / 2);
  EXPECT_NE(thread_state.cache->age, heap.age());
  for (size_t i = 1; i <= kClasses; ++i) free(allocate(1000 + 200 * i));
  EXPECT_EQ(in_bins(), 0u);
  EXPECT_EQ(thread_state.cache->age, heap.age());
}

TEST_F(IdleTest, OtherThreadsHaveTheSlabsOfAClassThatIsNotUsed) {
  OtherThread other(test::start_process);
  void* block = allocate(kBytes);
  const Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(block));
  for (int i = 0; i < 3; ++i) let_time_pass();
  EXPECT_EQ(slab->state, SlabState::Pooled);
  EXPECT_EQ(state_of(kBytes).current, nullptr);
  void* of_other = nullptr;
  other.run([&] { of_other = allocate(kBytes); });
  EXPECT_EQ(heap.superslabs.find(reinterpret_cast<uintptr_t>(of_other)), slab);
  free(block);
  other.run([&] {
    free(of_other);
    flush_thread_cache();
  });
}

}  // namespace
}  // namespace hakmem
