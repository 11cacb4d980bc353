// What the superslab heap holds back of free memory, and gives back to the kernel.
#include <vector>

#include "tests/unit/superslab/superslab_heap_fixture.h"

namespace hakmem {
namespace {

using test::Call;
using SuperslabPurgeTest = SuperslabHeapTest;

TEST_F(SuperslabPurgeTest, StatesAndPurge) {
  Slab* slab = take(kUnitsPerSuperslab);
  Superslab* superslab = slab->superslab;
  EXPECT_EQ(superslab->state(), SuperslabState::Full);
  write_to(slab, 7);
  give(slab);
  EXPECT_EQ(superslab->state(), SuperslabState::Empty);
  EXPECT_EQ(heap_.retained_bytes(), kSuperslabBytes);
  EXPECT_EQ(heap_.purge(1, 0), kSuperslabBytes);
  EXPECT_EQ(superslab->state(), SuperslabState::Purged);
  EXPECT_EQ(heap_.retained_bytes(), 0u);
  EXPECT_EQ(heap_.purge(SIZE_MAX, 0), 0u);
  EXPECT_TRUE(heap_.is_consistent());
  slab = take(5);
  EXPECT_EQ(superslab->state(), SuperslabState::Active);
  EXPECT_TRUE(slab->zeroed);
  EXPECT_TRUE(reads_as_zero(slab->start, span_bytes(5)));
}

TEST_F(SuperslabPurgeTest, PurgeTakesFreeUnitsOnly) {
  std::vector<Slab*> slabs;
  for (uint32_t i = 0; i < kUnitsPerSuperslab; ++i) slabs.push_back(take(1));
  for (Slab* slab : slabs) write_to(slab, 7);
  for (uint32_t i = 0; i < kUnitsPerSuperslab; i += 2) give(slabs[i]);
  EXPECT_EQ(heap_.retained_bytes(), kSuperslabBytes / 2);
  EXPECT_EQ(heap_.purge(SIZE_MAX, 0), kSuperslabBytes / 2);
  for (uint32_t i = 0; i < kUnitsPerSuperslab; ++i) {
    const char* content = reinterpret_cast<const char*>(slabs[i]->start);
    EXPECT_EQ(content[0] + content[span_bytes(1) - kPageBytes], i % 2 == 0 ? 0 : 14);
  }
}

TEST_F(SuperslabPurgeTest, HugePagesForALargerHeapUntilPurgedInPart) {
  if (has(Mitigation::kGuardPages)) GTEST_SKIP() << "guard pages take the place of huge pages";
  std::vector<Slab*> spans;
  for (int i = 0; i < 10; ++i) spans.push_back(take(kUnitsPerSuperslab));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(spans[i]->superslab->is_huge, i >= 1) << i;  // from 768 KiB on
  Superslab* huge = spans[9]->superslab;

  give(spans[9]);
  EXPECT_EQ(heap_.purge(SIZE_MAX, 0), kSuperslabBytes);
  EXPECT_TRUE(huge->is_huge);  // wholly purged, it may have a huge page again

  Slab* low = take(1);
  Slab* high = take(1);
  ASSERT_EQ(low->superslab, huge);
  give(high);
  // What was never used of it holds pages, too.
  EXPECT_EQ(heap_.purge(SIZE_MAX, 0), kSuperslabBytes - kUnitBytes);
  EXPECT_FALSE(huge->is_huge);
  EXPECT_EQ(huge->purged, huge->free);
  EXPECT_TRUE(heap_.is_consistent());

  give(low);
  heap_.purge(SIZE_MAX, 0);
  heap_.set_thread_count(16);  // as many slabs more are begun and hardly used
  low = take(1);
  EXPECT_EQ(low->superslab, huge);
  EXPECT_FALSE(huge->is_huge);

  give(low);
  heap_.purge(SIZE_MAX, 0);
  heap_.set_thread_count(1);
  EXPECT_EQ(take(1)->superslab, huge);
  EXPECT_TRUE(huge->is_huge);
}

TEST_F(SuperslabPurgeTest, RetainsNoMoreThanTheHoldBack) {
  std::vector<Slab*> slabs;
  constexpr size_t kHeld = PurgePolicy::kMinHoldBack;
  for (uint32_t i = 0; i < kHeld / kSuperslabBytes + 8; ++i) slabs.push_back(take(kUnitsPerSuperslab));
  for (Slab* slab : slabs) {
    give(slab);
    EXPECT_LE(heap_.retained_bytes(), kHeld);
    EXPECT_EQ(heap_.retained_bytes(), dirty_bytes());
  }
  EXPECT_GE(heap_.retained_bytes(), kHeld - 4 * kMiB);
  EXPECT_GT(kernel_.calls(Call::kPurge), 0u);
}

TEST_F(SuperslabPurgeTest, TimeGivesBackWhatIsRetained) {
  std::vector<Slab*> slabs;
  for (uint32_t i = 0; i < 16; ++i) slabs.push_back(take(kUnitsPerSuperslab));
  for (Slab* slab : slabs) give(slab);
  ASSERT_EQ(heap_.retained_bytes(), 32 * kMiB);
  heap_.decay(0);
  EXPECT_EQ(heap_.retained_bytes(), 30 * kMiB);
  for (int second = 0; second < 300; ++second) heap_.decay(0);
  EXPECT_EQ(heap_.retained_bytes(), 0u);  // what is left goes too
  EXPECT_EQ(kernel_.calls(Call::kPurge), 16u);
}

// Locked pages, for one, cannot be purged: they stay what they were.
TEST_F(SuperslabPurgeTest, ARefusedPurgeIsNotTakenForAPurge) {
  Slab* slab = take(kUnitsPerSuperslab);
  write_to(slab, 7);
  give(slab);
  kernel_.fail_always(Call::kPurge);
  heap_.purge(SIZE_MAX, 0);
  EXPECT_TRUE(heap_.is_consistent());
  slab = take(kUnitsPerSuperslab);
  ASSERT_NE(slab, nullptr);
  EXPECT_TRUE(!slab->zeroed || reads_as_zero(slab->start, span_bytes(kUnitsPerSuperslab)))
      << "calloc would return old content";
  give(slab);
  kernel_.recover();
  heap_.purge(SIZE_MAX, 0);
  slab = take(kUnitsPerSuperslab);
  EXPECT_TRUE(!slab->zeroed || reads_as_zero(slab->start, span_bytes(kUnitsPerSuperslab)));
}

TEST_F(SuperslabPurgeTest, EmptySuperslabsAreReleasedAndMappedAgain) {
  Slab* keep = take(1);
  std::vector<Slab*> slabs;
  for (uint32_t i = 0; i < 4; ++i) slabs.push_back(take(kUnitsPerSuperslab));
  for (Slab* slab : slabs) write_to(slab, 7);
  for (Slab* slab : slabs) give(slab);
  size_t reserved = kernel_.reserved_bytes();
  EXPECT_EQ(heap_.release_empty(), 4 * kSuperslabBytes);
  EXPECT_EQ(kernel_.reserved_bytes(), reserved - 4 * kSuperslabBytes);
  EXPECT_EQ(heap_.retained_bytes(), 0u);
  EXPECT_EQ(heap_.release_empty(), 0u);
  EXPECT_TRUE(heap_.is_consistent());
  EXPECT_EQ(heap_.find(slabs[0]->start)->owner.load(), owner::kFree);
  // Where the kernel gives the addresses back to others, new ones are taken.
  kernel_.fail_always(Call::kMapAt);
  Slab* elsewhere = take(kUnitsPerSuperslab);
  ASSERT_NE(elsewhere, nullptr);
  EXPECT_GT(elsewhere->start, slabs[3]->start);
  kernel_.recover();
  for (uint32_t i = 0; i < 4; ++i) {
    Slab* slab = take(kUnitsPerSuperslab);
    ASSERT_NE(slab, nullptr);
    EXPECT_LE(slab->start, slabs[3]->start) << "a released superslab was not used";
    EXPECT_TRUE(slab->zeroed);
    EXPECT_TRUE(reads_as_zero(slab->start, span_bytes(kUnitsPerSuperslab)));
    write_to(slab, 7);
    EXPECT_TRUE(heap_.is_consistent());
  }
  EXPECT_EQ(superslabs().size(), 6u);
  give(keep);
}

TEST_F(SuperslabPurgeTest, TrimmedReservationsAreReplaced) {
  Slab* first = take(kUnitsPerSuperslab);
  EXPECT_EQ(heap_.trim_reservations(), 31 * kSuperslabBytes);
  EXPECT_EQ(heap_.trim_reservations(), 0u);
  Slab* second = take(kUnitsPerSuperslab);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(arena_->reservation_count(), 2u);
  write_to(first, 1);
  write_to(second, 2);
  EXPECT_EQ(heap_.find(first->start), first);
  EXPECT_EQ(heap_.find(second->start), second);
  EXPECT_TRUE(arena_->is_consistent());
}

}  // namespace
}  // namespace hakmem
