#include "tests/unit/support/accounts.h"

#include <gtest/gtest.h>

#include "allocator/api/statistics.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/counters.h"

namespace hakmem::test {

LiveCounts listed_by_view() {
  LiveCounts listed{};
  metrics::heap_view.visit_threads(
      [](void* argument, const metrics::ThreadCacheView& cache) {
        for (uint32_t i = 0; i < kSizeClassCount; ++i) (*static_cast<LiveCounts*>(argument))[i] += cache.listed[i];
      },
      &listed);
  return listed;
}

LiveCounts live_by_view() {
  LiveCounts live{};
  metrics::heap_view.visit_superslabs(
      [](void* argument, const metrics::SuperslabView& superslab) {
        metrics::heap_view.visit_slabs(
            superslab.address,
            [](void* inner, const metrics::SlabView& slab) {
              (*static_cast<LiveCounts*>(inner))[slab.size_class] += slab.used;
            },
            argument);
      },
      &live);
  LiveCounts listed = listed_by_view();
  for (uint32_t i = 0; i < kSizeClassCount; ++i) live[i] -= listed[i];
  metrics::heap_view.visit_huge(
      [](void* argument, const metrics::HugeView& huge) {
        if (huge.requested_bytes > 0) ++(*static_cast<LiveCounts*>(argument))[metrics::kHugeClass];
      },
      &live);
  return live;
}

LiveCounts used_in_slabs() {
  LiveCounts used{};
  for (uint32_t r = 0; r < heap.arena.reservation_count(); ++r) {
    const Reservation& reservation = heap.arena.reservation(r);
    const auto* slabs = reinterpret_cast<const Slab*>(reservation.metadata);
    size_t units = size_t{reservation.committed.load()} * kUnitsPerSuperslab;
    for (size_t i = 0; i < units; i += slabs[i].state == SlabState::Free ? 1 : slabs[i].units) {
      SlabState state = slabs[i].state;
      if (state == SlabState::Free || state == SlabState::Large || state == SlabState::Sampled) continue;
      used[slabs[i].size_class] += slabs[i].used;
    }
  }
  return used;
}

uint64_t unsampled_slabs() {
  uint64_t count = 0;
  metrics::heap_view.visit_superslabs(
      [](void* argument, const metrics::SuperslabView& superslab) {
        metrics::heap_view.visit_slabs(
            superslab.address,
            [](void* inner, const metrics::SlabView& slab) {
              *static_cast<uint64_t*>(inner) += slab.state != SlabState::Sampled;
            },
            argument);
      },
      &count);
  return count;
}

uint64_t committed_superslabs() {
  uint64_t count = 0;
  for (uint32_t r = 0; r < heap.arena.reservation_count(); ++r) count += heap.arena.reservation(r).committed.load();
  return count;
}

// Reads caches of threads that are at rest but not joined.
__attribute__((no_sanitize("thread"))) void expect_allocations_counted() {
  if (!kBuild.exact_counts) return;
  LiveCounts uncounted{};
  for (const ThreadCache* cache = registered_caches.load(); cache != nullptr; cache = cache->next_registered)
    for (uint32_t i = 0; i < kSizeClassCount; ++i) {
      const SampleCountdown& countdown = cache->classes[i].countdown;
      auto blocks = static_cast<uint64_t>(cache->slots + kBinShapes[i].bottom - cache->bins[i].top);
      uint64_t to_come = cache->bins[i].frees_left + static_cast<uint64_t>(countdown.not_offered);
      uint64_t since = countdown.until_sample - to_come - blocks;
      EXPECT_LE(since, countdown.until_sample) << "not counted yet in class " << i;
      uncounted[i] += since;
    }
  for (uint32_t i = 0; i < metrics::kSizeClassCount; ++i)
    EXPECT_EQ(counter<metrics::Metric::kAllocations>(i) + uncounted[i], exact_totals(i).allocations) << "class " << i;
}

void expect_books_balance(const LiveCounts& live) {
  EXPECT_TRUE(heap_is_consistent());
  LiveCounts viewed = live_by_view();
  LiveCounts used = used_in_slabs();
  for (uint32_t i = 0; i < metrics::kSizeClassCount; ++i) {
    EXPECT_EQ(viewed[i], live[i]) << "heap view of class " << i;
    if (kBuild.stats && i < kSizeClassCount) {
      EXPECT_EQ(refill_objects(i) - counter<metrics::Metric::kCollectedObjects>(i), used[i]) << "class " << i;
    }
    if (kBuild.exact_counts) {
      ExactTotals exact = exact_totals(i);
      EXPECT_EQ(exact.allocations - exact.frees, live[i]) << "exact counts of class " << i;
    }
  }
  expect_allocations_counted();
}

}  // namespace hakmem::test
