#include "allocator/superslab/superslab_heap.h"

#include <gtest/gtest.h>
#include <string.h>

#include <map>
#include <utility>
#include <vector>

#include "tests/unit/superslab/superslab_heap_fixture.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/random.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::Call;

TEST_F(SuperslabHeapTest, SpansOfAllSizes) {
  for (uint32_t units = 1; units <= kUnitsPerSuperslab; ++units) {
    Slab* slab = take(units);
    ASSERT_NE(slab, nullptr);
    EXPECT_EQ(slab->units, units);
    EXPECT_EQ(slab->unit, 0u);
    EXPECT_EQ(slab->start % kUnitBytes, 0u);
    EXPECT_EQ(slab->state, SlabState::Large);
    EXPECT_EQ(slab->size_class, metrics::kLargeClass);
    EXPECT_TRUE(slab->zeroed);
    EXPECT_EQ(slab->count_free(), 0u);
    EXPECT_EQ(slab->used + slab->carved + slab->remote.load(), 0u);
    EXPECT_GE(slab->start, slab->superslab->address);
    EXPECT_LE(slab->start + units * kUnitBytes, slab->superslab->address + kSuperslabBytes);
    for (size_t offset = 0; offset < units * kUnitBytes; offset += kUnitBytes / 2)
      ASSERT_EQ(heap_.find(slab->start + offset), slab);
    for (uint32_t i = 1; i < units; ++i) EXPECT_EQ(slab[i].owner.load(), owner::kInterior);
    write_to(slab, 1);
    ASSERT_TRUE(heap_.is_consistent());
  }
}

TEST_F(SuperslabHeapTest, SpansThatStartAtMultiples) {
  Slab* first = take(1);
  std::vector<Slab*> slabs;
  for (uint32_t step = 1; step <= kUnitsPerSuperslab; step *= 2)
    for (uint32_t units = 1; units + step - 1 <= kUnitsPerSuperslab; units += 5) {
      Slab* slab = heap_.take_span(units, SlabState::Large, metrics::kLargeClass, 0, step);
      ASSERT_NE(slab, nullptr);
      EXPECT_EQ(slab->units, units);
      EXPECT_EQ(slab->start % (step * kUnitBytes), 0u) << units << " " << step;
      slabs.push_back(slab);
      if (units % 2 == 0) continue;
      give(slab);  // the next one may stand there, in what holds pages
      slabs.pop_back();
    }
  for (Slab* slab : slabs)
    for (uintptr_t unit = 0; unit < slab->units; ++unit) ASSERT_EQ(heap_.find(slab->start + unit * kUnitBytes), slab);
  ASSERT_TRUE(heap_.is_consistent());
  for (Slab* slab : slabs) give(slab);
  give(first);
  ASSERT_TRUE(heap_.is_consistent());
  for (Superslab* superslab : superslabs()) EXPECT_EQ(superslab->free, kAllUnits);
}

TEST_F(SuperslabHeapTest, ASpanGrowsIntoWhatIsFreeBehindIt) {
  Slab* first = take(5);
  Slab* second = take(3);
  ASSERT_EQ(second, first + 5);
  EXPECT_FALSE(heap_.extend_span(first, 6)) << "the next unit is taken";
  size_t retained = heap_.retained_bytes();
  write_to(first, 1);
  EXPECT_TRUE(heap_.extend_span(second, kUnitsPerSuperslab - 5));
  EXPECT_EQ(second->units, kUnitsPerSuperslab - 5);
  EXPECT_EQ(heap_.find(second->start + (kUnitsPerSuperslab - 6) * kUnitBytes), second);
  EXPECT_TRUE(heap_.is_consistent());
  EXPECT_FALSE(heap_.extend_span(second, kUnitsPerSuperslab - 4)) << "the superslab ends";
  heap_.give_span(second, 0);
  EXPECT_EQ(heap_.retained_bytes(), retained + (kUnitsPerSuperslab - 5) * kUnitBytes);
  EXPECT_TRUE(heap_.extend_span(first, kUnitsPerSuperslab));
  EXPECT_EQ(heap_.retained_bytes(), retained);
  heap_.give_span(first, 0);
  EXPECT_TRUE(heap_.is_consistent());
}

TEST_F(SuperslabHeapTest, RandomSpansNeverOverlap) {
  test::Random random(3);
  std::map<uintptr_t, Slab*> spans;
  for (uint32_t step = 0; step < test::rounds(20000); ++step) {
    if (spans.size() < 60 + random.below(60)) {
      uint32_t units = random.below(4) == 0 ? 1 + random.below(kUnitsPerSuperslab) : 1 + random.below(4);
      Slab* slab = take(units);
      ASSERT_NE(slab, nullptr);
      ASSERT_EQ(slab->units, units);
      auto after = spans.lower_bound(slab->start);
      if (after != spans.end()) {
        ASSERT_LE(slab->start + units * kUnitBytes, after->first);
      }
      if (after != spans.begin()) {
        ASSERT_GE(slab->start, std::prev(after)->first + std::prev(after)->second->units * kUnitBytes);
      }
      if (slab->zeroed) {
        ASSERT_TRUE(reads_as_zero(slab->start, 64) && reads_as_zero(slab->start + span_bytes(units) - 64, 64));
      }
      memset(reinterpret_cast<void*>(slab->start), 1, 64);
      memset(reinterpret_cast<void*>(slab->start + span_bytes(units) - 64), 1, 64);
      spans[slab->start] = slab;
    } else {
      auto victim = std::next(spans.begin(), random.below(static_cast<uint32_t>(spans.size())));
      Slab* slab = victim->second;
      uintptr_t start = slab->start;
      ASSERT_EQ(heap_.find(start + slab->units * kUnitBytes - 1), slab);
      give(slab);
      ASSERT_EQ(heap_.find(start)->owner.load(), owner::kFree);
      spans.erase(victim);
    }
    if (step % 64 == 0) {
      ASSERT_TRUE(heap_.is_consistent());
      ASSERT_EQ(heap_.retained_bytes(), dirty_bytes());
      if (random.below(8) == 0) heap_.purge(random.below(2) ? SIZE_MAX : kMiB, 0);
    }
  }
  for (auto [start, slab] : spans) give(slab);
  ASSERT_TRUE(heap_.is_consistent());
  for (Superslab* superslab : superslabs()) EXPECT_EQ(superslab->free, kAllUnits);
}

TEST_F(SuperslabHeapTest, ConsistencyFindsSeededErrors) {
  Slab* slab = take(3);
  give(take(2));
  Superslab* superslab = slab->superslab;
  auto breaks = [&](auto& field, auto wrong) {
    auto right = std::exchange(field, static_cast<std::remove_reference_t<decltype(field)>>(wrong));
    bool found = !heap_.is_consistent();
    field = right;
    return found;
  };
  ASSERT_TRUE(heap_.is_consistent());
  EXPECT_TRUE(breaks(superslab->dirty, superslab->dirty | ~superslab->free)) << "pages of a slab among the free";
  EXPECT_TRUE(breaks(superslab->dirty, 0)) << "among those that hold pages";
  EXPECT_TRUE(breaks(superslab->bin, superslab->bin - 1));
  uint64_t free = std::exchange(superslab->free, superslab->free & ~(uint64_t{1} << 63));
  superslab->bin = static_cast<uint8_t>(superslab->right_bin());
  EXPECT_FALSE(heap_.is_consistent()) << "not in the list of its longest run";
  superslab->free = free;
  superslab->bin = static_cast<uint8_t>(superslab->right_bin());
  ASSERT_TRUE(heap_.is_consistent());
  auto& reservation = const_cast<Reservation&>(arena_->reservation(0));
  uint32_t committed = reservation.committed.exchange(reservation.capacity + 1);
  EXPECT_FALSE(heap_.is_consistent());
  reservation.committed = committed;
  EXPECT_TRUE(heap_.is_consistent());
}

TEST_F(SuperslabHeapTest, DensestSuperslabFirst) {
  Slab* first = take(kUnitsPerSuperslab - 4);    // leaves a run of 4 in superslab A
  Slab* second = take(kUnitsPerSuperslab - 12);  // and of 12 in B
  Slab* third = take(10);                        // which makes 2 in B
  ASSERT_NE(first->superslab, second->superslab);
  ASSERT_EQ(third->superslab, second->superslab);
  EXPECT_EQ(take(2)->superslab, second->superslab);
  EXPECT_EQ(take(3)->superslab, first->superslab);
  EXPECT_EQ(second->superslab->state(), SuperslabState::Full);
  EXPECT_EQ(take(1)->superslab, first->superslab);
  EXPECT_EQ(first->superslab->state(), SuperslabState::Full);
  Slab* next = take(1);
  EXPECT_EQ(next->superslab->state(), SuperslabState::Active);
  EXPECT_EQ(superslabs().size(), 3u);
}

TEST_F(SuperslabHeapTest, UnitsThatHoldPagesFirst) {
  Slab* a = take(4);
  Slab* b = take(4);
  Slab* keep = take(4);
  ASSERT_EQ(keep->superslab, a->superslab);
  uintptr_t dirty = b->start;
  give(b);
  EXPECT_EQ(heap_.retained_bytes(), 4 * kUnitBytes);
  Slab* again = take(3);
  EXPECT_EQ(again->start, dirty);
  EXPECT_FALSE(again->zeroed);
  EXPECT_EQ(heap_.retained_bytes(), kUnitBytes);
  Slab* large = take(8);  // does not fit into what is dirty
  EXPECT_GT(large->start, keep->start);
  EXPECT_TRUE(large->zeroed);
  // A run that is dirty in part is not known to be zero.
  give(large);
  Slab* mixed = take(20);
  EXPECT_FALSE(mixed->zeroed);
  EXPECT_EQ(heap_.retained_bytes(), dirty_bytes());
}

TEST_F(SuperslabHeapTest, EverySingleRefusalIsSurvived) {
  for (Call call : {Call::kReserve, Call::kAllowReading, Call::kCommit})
    for (uint64_t nth = 1;; ++nth) {
      Arena arena;
      Superslabs heap(arena);
      // Too many for huge pages at this size, of which each byte written would have the kernel clear one.
      heap.set_thread_count(100);
      kernel_.fail(call, nth);
      uint64_t refusals = kernel_.refusals(call);
      std::vector<Slab*> slabs;
      uint32_t nulls = 0;
      while (slabs.size() < 40) {
        Slab* slab = heap.take_span(kUnitsPerSuperslab, SlabState::Large, metrics::kLargeClass, 0);
        nulls += slab == nullptr;
        ASSERT_LE(nulls, 1u);
        ASSERT_TRUE(heap.is_consistent());
        if (slab == nullptr) continue;
        *reinterpret_cast<char*>(slab->start) = 1;
        slabs.push_back(slab);
      }
      uint32_t committed = 0;
      for (uint32_t i = 0; i < arena.reservation_count(); ++i) committed += arena.reservation(i).committed;
      EXPECT_EQ(committed, 40u) << "a superslab was lost at refusal " << nth << " of call " << static_cast<int>(call);
      bool refused = kernel_.refusals(call) > refusals;
      for (Slab* slab : slabs) heap.give_span(slab, 0);
      kernel_.recover();
      if (!refused) break;
    }
}

TEST_F(SuperslabHeapTest, AKernelThatGivesNothingAndRecovers) {
  Slab* keep = take(kUnitsPerSuperslab);
  for (Call call : {Call::kCommit, Call::kReserve}) {
    kernel_.fail_always(call);
    std::vector<Slab*> taken;
    for (int i = 0; i < 100; ++i)
      if (Slab* slab = take(kUnitsPerSuperslab); slab != nullptr) taken.push_back(slab);
    EXPECT_LT(taken.size(), 100u);
    EXPECT_TRUE(heap_.is_consistent());
    kernel_.recover();
    EXPECT_NE(take(kUnitsPerSuperslab), nullptr);
    EXPECT_EQ(heap_.find(keep->start), keep);
  }
}

TEST_F(SuperslabHeapTest, ThreadsDoNotMeet) {
  constexpr uint32_t kThreads = 4;
  test::run_threads(kThreads, [&](uint32_t thread) {
    test::Random random(thread);
    std::vector<Slab*> slabs;
    for (uint32_t i = 0; i < test::rounds(8000); ++i) {
      if (slabs.size() < 30 && random.below(2) == 0) {
        Slab* slab = take(1 + random.below(8));
        ASSERT_NE(slab, nullptr);
        if (slab->zeroed) {
          ASSERT_EQ(*reinterpret_cast<uint64_t*>(slab->start), 0u);
        }
        *reinterpret_cast<uint64_t*>(slab->start) = slab->start ^ thread;
        slabs.push_back(slab);
      } else if (!slabs.empty()) {
        size_t index = random.below(static_cast<uint32_t>(slabs.size()));
        ASSERT_EQ(*reinterpret_cast<uint64_t*>(slabs[index]->start), slabs[index]->start ^ thread);
        give(slabs[index]);
        slabs[index] = slabs.back();
        slabs.pop_back();
      }
      if (random.below(256) == 0) heap_.purge(kMiB, 0);
    }
    for (Slab* slab : slabs) give(slab);
  });
  EXPECT_TRUE(heap_.is_consistent());
  EXPECT_EQ(heap_.retained_bytes(), dirty_bytes());
  for (Superslab* superslab : superslabs()) EXPECT_EQ(superslab->free, kAllUnits);
}

}  // namespace
}  // namespace hakmem
