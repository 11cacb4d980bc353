#include "allocator/api/statistics.h"

#include "allocator/base/message.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/lifetime.h"

namespace hakmem {

ExactTotals exact_totals(uint32_t size_class) {
  ExactTotals totals{};
  for (ThreadCache* cache = first_registered_cache(); cache != nullptr; cache = cache->next_registered)
    cache->exact.add_to(size_class, totals.allocations, totals.frees);
  return totals;
}

void print_debug_statistics() {
  if constexpr (kBuild.assertions) {
    LineBuffer line;
    for (uint32_t i = 0; i < metrics::kCountOf<metrics::Lock>; ++i) {
      LockStatsView lock = metrics::heap_view.lock_stats(static_cast<metrics::Lock>(i));
      line.text("lock ").text(metrics::kLockNames[i]).text(": acquisitions ").number(lock.acquisitions);
      line.text(", waits ").number(lock.waits).text(", waited ns ").number(lock.wait_nanoseconds).text("\n").print();
    }
    for (uint32_t i = 0; i < heap.arena.reservation_count(); ++i) {
      const Reservation& reservation = heap.arena.reservation(i);
      line.text("arena reservation ").hex(reservation.base).text(": superslabs committed ");
      line.number(reservation.committed.load(std::memory_order_relaxed)).text(" of ").number(reservation.capacity);
      line.text("\n").print();
    }
    for (uint32_t i = 0; i < metrics::kSizeClassCount; ++i) {
      ExactTotals totals = exact_totals(i);
      if (totals.allocations == 0) continue;
      line.text("class ").number(i).text(": allocations ").number(totals.allocations);
      line.text(", frees ").number(totals.frees).text("\n").print();
    }
  }
}

bool heap_is_consistent() {
  if (!heap.superslabs.is_consistent() || !heap.pool.is_consistent()) return false;
  for (uint32_t r = 0; r < heap.arena.reservation_count(); ++r) {
    const Reservation& reservation = heap.arena.reservation(r);
    auto* slabs = reinterpret_cast<Slab*>(reservation.metadata);
    size_t units = size_t{reservation.committed.load(std::memory_order_acquire)} * kUnitsPerSuperslab;
    for (size_t i = 0; i < units; ++i) {
      if (slabs[i].superslab == nullptr) continue;
      if (slabs[i].owner.load(std::memory_order_acquire) != owner::kInterior && !slabs[i].is_consistent()) return false;
    }
  }
  return true;
}

}  // namespace hakmem
