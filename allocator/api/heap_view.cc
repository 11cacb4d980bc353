// The read-only view of the heap. It reads what other threads write, without
// their locks: each figure is one that was true at some moment of the visit.
#include "allocator/metrics/heap_view.h"

#include <algorithm>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/guard.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/lifetime.h"
#include "allocator/thread_cache/private_thread.h"
#include "allocator/thread_cache/sampling.h"

namespace hakmem {
namespace {

#define HAKMEM_READS_RACILY __attribute__((no_sanitize("thread")))

size_t view_class_bytes(uint32_t size_class) {
  return size_class < kSizeClassCount ? kClassShapes[size_class].block_bytes : 0;
}

// None of what a view reads is in a cache, so that each first look at it would wait for memory.
// The record at the same place in the next superslab, which mostly is cut alike: of a span of
// several units only the first record is looked at.
constexpr uint32_t kSlabsAhead = kUnitsPerSuperslab;
constexpr size_t kLineBytes = 64;

void fetch_ahead(const void* address, size_t bytes) {
  auto* lines = static_cast<const char*>(address);
  for (size_t offset = 0; offset < bytes; offset += kLineBytes) __builtin_prefetch(lines + offset);
}

uint16_t begin_look() {
  // Only telemetry looks, one thread at a time.
  auto look = static_cast<uint16_t>(present_look.load(std::memory_order_relaxed) + 1);
  present_look.store(look, std::memory_order_relaxed);
  return look;
}

HAKMEM_READS_RACILY void visit_superslabs(void (*visit)(void*, const metrics::SuperslabView&), void* argument) {
  uint32_t number = 0;
  heap.superslabs.visit_superslabs([&](const Superslab& superslab) HAKMEM_READS_RACILY {
    metrics::SuperslabView view{};
    view.number = number++;
    if (superslab.is_released) return;
    view.changed_in = superslab.changed_in.load(std::memory_order_relaxed);
    // Pairs with mark_changed(): what is read from here on is not older.
    std::atomic_thread_fence(std::memory_order_acquire);
    view.free_units_mask = superslab.free;
    view.dirty_units_mask = superslab.dirty & view.free_units_mask;
    view.address = superslab.address;
    view.bytes = kSuperslabBytes;
    view.unit_bytes = kUnitBytes;
    view.state = Superslab::state_of(view.free_units_mask, view.dirty_units_mask);
    visit(argument, view);
  });
}

HAKMEM_READS_RACILY metrics::SlabView view_of(const Slab& slab, SlabState state) {
  metrics::SlabView view{};
  view.address = slab.start;
  view.bytes = slab.units * kUnitBytes;
  view.state = state;
  view.size_class = slab.size_class;
  if (state == SlabState::Large) {
    view.size_class = metrics::kLargeClass;
    view.block_bytes = static_cast<uint32_t>(view.bytes);
    view.capacity = view.carved = view.used = 1;
    view.requested_bytes = slab.requested_bytes;
    return view;
  }
  if (view.size_class >= kSizeClassCount) view.size_class = 0;
  const ClassShape& shape = kClassShapes[view.size_class];
  view.block_bytes = shape.block_bytes;
  view.capacity = shape.capacity;
  view.carved = slab.carved < shape.capacity ? slab.carved : shape.capacity;
  view.remote = RemoteList::count(slab.remote.load(std::memory_order_relaxed));
  uint32_t not_used = (slab.countdown_start - slab.countdown) + view.remote;
  uint32_t used = slab.used;
  used = used > not_used ? used - not_used : 0;
  view.used = used < view.carved ? used : view.carved;
  return view;
}

HAKMEM_READS_RACILY void visit_slabs(uintptr_t superslab, void (*visit)(void*, const metrics::SlabView&),
                                     void* argument) {
  auto location = heap.arena.find(superslab);
  if (location.reservation == nullptr) return;
  const Slab* slabs =
      reinterpret_cast<Slab*>(location.reservation->metadata) + size_t{location.superslab} * kUnitsPerSuperslab;
  for (uint32_t i = 0; i < kUnitsPerSuperslab;) {
    const Slab& slab = slabs[i];
    fetch_ahead(&slab + kSlabsAhead, sizeof slab);
    SlabState state = slab.state;
    uint32_t units = slab.units;
    if (state == SlabState::Free || units == 0 || units > kUnitsPerSuperslab - i) {
      ++i;
      continue;
    }
    visit(argument, view_of(slab, state));
    i += units;
  }
}

HAKMEM_READS_RACILY bool slab_at(uintptr_t address, metrics::SlabView* view) {
  const Slab* slab = heap.superslabs.find(address);
  if (slab == nullptr) return false;
  SlabState state = slab->state;
  if (state == SlabState::Free) return false;
  *view = view_of(*slab, state);
  return true;
}

void visit_huge(void (*visit)(void*, const metrics::HugeView&), void* argument) {
  heap.huge.visit([&](uintptr_t address, size_t bytes, size_t requested) {
    visit(argument, {{address, bytes}, requested});
  });
}

// What view_of(cache) reads first.
void fetch_ahead(const ThreadCache* cache) {
  fetch_ahead(cache->bins, sizeof cache->bins);
  __builtin_prefetch(&cache->use);
  __builtin_prefetch(&cache->next_registered);
}

HAKMEM_READS_RACILY metrics::ThreadCacheView view_of(const ThreadCache& cache) {
  metrics::ThreadCacheView view{};
  // Most bins are empty. What is known of the samples in the others stands on lines of their own,
  // which are fetched all together.
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    // As blocks_in_bin() has it, which is not marked: its other callers look at their own.
    view.listed[size_class] = static_cast<uint32_t>(cache.bottom(size_class) - cache.bins[size_class].top);
    if (view.listed[size_class] != 0) __builtin_prefetch(&cache.classes[size_class].countdown.samples);
  }
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    uint32_t& blocks = view.listed[size_class];
    if (blocks != 0) {
      // Copied first: std::min takes references, and what reads through them is not marked as racy.
      uint32_t samples = cache.classes[size_class].countdown.samples;
      blocks -= std::min(blocks, samples);
    }
    blocks += cache.quarantine.count(size_class);
  }
  return view;
}

HAKMEM_READS_RACILY void visit_threads(void (*visit)(void*, const metrics::ThreadCacheView&), void* argument) {
  for (ThreadCache* cache = first_registered_cache(); cache != nullptr; cache = cache->next_registered) {
    if (cache->next_registered != nullptr) fetch_ahead(cache->next_registered);
    ThreadCache::Use use = cache->use.load(std::memory_order_relaxed);
    if (use == ThreadCache::Use::kFree || use == ThreadCache::Use::kOrphan) continue;
    metrics::ThreadCacheView view = view_of(*cache);
    view.is_thread = use == ThreadCache::Use::kThread;
    visit(argument, view);
  }
  metrics::ThreadCacheView pooled{};
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class)
    pooled.listed[size_class] = heap.pool.pooled_blocks(size_class);
  visit(argument, pooled);
}

void visit_reservations(void (*visit)(void*, const metrics::RangeView&), void* argument) {
  for (uint32_t r = 0; r < heap.arena.reservation_count(); ++r) {
    const Reservation& reservation = heap.arena.reservation(r);
    visit(argument, {reservation.base, reservation.capacity * kSuperslabBytes});
  }
}

void visit_metadata(void (*visit)(void*, const metrics::RangeView&), void* argument) {
  heap.arena.visit_metadata([&](uintptr_t address, size_t bytes) { visit(argument, {address, bytes}); });
  if constexpr (kBuild.stats) {
    // Guarded samples, at most a MiB of them: more of their memory is ours than the program's.
    if (size_t bytes = guard_pool.bytes.load(std::memory_order_acquire); bytes != 0) {
      auto records = reinterpret_cast<uintptr_t>(guard_pool.slots);
      visit(argument, {records, guard_pool.base + bytes - records});
    }
  }
}

LockStatsView lock_stats(metrics::Lock lock) {
  switch (lock) {
    case metrics::Lock::ThreadRegistry: return registry_lock.stats();
    case metrics::Lock::SharedPool: return heap.pool.lock().stats();
    case metrics::Lock::Samples: return sampled_slabs.lock.stats();
    case metrics::Lock::Superslabs: return heap.superslabs.lock().stats();
    case metrics::Lock::Huge: return heap.huge.lock().stats();
    case metrics::Lock::PageArena: return heap.arena.lock().stats();
    case metrics::Lock::kCount: break;
  }
  return {};
}

size_t superslab_hold_back(size_t used) { return heap.superslabs.hold_back(used); }
size_t huge_hold_back(size_t used) { return heap.huge.hold_back(used); }

void let_time_pass() {
  size_t retained = std::max(heap.superslabs.retained_bytes(), heap.huge.retained_bytes());
  if (retained > PurgePolicy::kLongRetained) heap.decay(0);
  private_heap.let_time_pass(coarse_milliseconds());
}

metrics::RangeView private_range() {
  size_t bytes = private_heap.committed_bytes();
  return {private_heap.base(), bytes};
}

}  // namespace

constinit const metrics::HeapView metrics::heap_view{
    view_class_bytes,    begin_look,     visit_superslabs,   visit_slabs,    slab_at,
    visit_huge,          visit_threads,  visit_reservations, visit_metadata, lock_stats,
    superslab_hold_back, huge_hold_back, let_time_pass,      private_range,  [] { leave_program(); }};

static_assert(static_cast<uint8_t>(LockRank::kPageArena) == static_cast<uint8_t>(metrics::Lock::PageArena));
static_assert(static_cast<uint8_t>(LockRank::kPrivateHeap) == metrics::kCountOf<metrics::Lock>);

}  // namespace hakmem
