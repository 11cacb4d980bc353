// The heap of superslabs: hands out spans of units, takes them back, and gives
// the pages of free units back to the kernel.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/lock.h"
#include "allocator/base/probe.h"
#include "allocator/metrics/counters.h"
#include "allocator/metrics/step_timer.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/page_arena/purge_policy.h"
#include "allocator/platform/clock.h"
#include "allocator/superslab/huge_page_policy.h"
#include "allocator/superslab/readers.h"
#include "allocator/superslab/superslab.h"
#include "allocator/superslab/superslab_bins.h"
#include "allocator/superslab/superslab_maps.h"
#include "allocator/superslab/superslab_records.h"

namespace hakmem {

template <VirtualMemory Memory>
class SuperslabHeap {
 public:
  explicit constexpr SuperslabHeap(PageArena<Memory>& arena) : arena_(arena) {}

  // superslab_refill: a span of `units` (1 to kUnitsPerSuperslab), its first record set up with `state` and
  // `size_class` and not yet owned. Null when the kernel gives no memory. Any thread. `shard` is where it is counted.
  // It starts at a multiple of `step` units, a power of two, and `units` and `step` are not more than a superslab has.
  Slab* take_span(uint32_t units, SlabState state, uint32_t size_class, uint32_t shard, uint32_t step = 1) {
    metrics::StepTimer timer(shard);
    lock_.lock();
    Superslab* superslab = bins_.find_superslab(units + step - 1);
    timer.finish(metrics::RefillStep::Scan);
    bool is_mapped = superslab != nullptr;
    if (superslab == nullptr) {
      superslab = map_superslab();
      timer.finish(metrics::RefillStep::Map);
      if (superslab == nullptr) {
        lock_.unlock();
        return nullptr;
      }
    }
    Slab* slab = cut_span(superslab, units, state, size_class, step);
    lock_.unlock();
    timer.finish(metrics::RefillStep::Metadata);
    HAKMEM_PROBE3(0, hakmem, superslab_refill, slab->start, units * kUnitBytes, !is_mapped);
    return slab;
  }

  // Lengthens the caller's span to `units`, more than it has. False when what follows it is not free. Any thread.
  bool extend_span(Slab* slab, uint32_t units) {
    LockGuard guard(lock_);
    Superslab* superslab = slab->superslab;
    uint32_t end = static_cast<uint32_t>(slab - superslab->slabs) + slab->units;
    uint32_t more = units - slab->units;
    if (end + more > kUnitsPerSuperslab) return false;
    uint64_t run = bit_run(end, more);
    if ((superslab->free & run) != run) return false;
    take_units(superslab, run);
    set_guard(superslab, bit_run(end - slab->units, units));
    mark_interior(slab, slab->units, units);
    slab->units = static_cast<uint16_t>(units);
    superslab->mark_changed();
    return true;
  }

  // Maps the first superslab, so that what other threads read without a lock (slab_map) is written before
  // any of them starts. Without memory it does nothing; the first take_span() tries again.
  void prime() {
    LockGuard guard(lock_);
    if (slab_map_units == 0) map_superslab();
  }

  // Takes back a span without a live block that no thread can reach any more. Any thread. May purge kMaxPurgeBytes.
  void give_span(Slab* slab, uint32_t shard) {
    slab->carve_time.observe(shard);
    lock_.lock();
    Superslab* superslab = slab->superslab;
    uint64_t run = bit_run(static_cast<uint32_t>(slab - superslab->slabs), slab->units);
    used_bytes_ -= slab->units * kUnitBytes;
    if (slab->size_class < kSizeClassCount && slab->carved != slab->shape().capacity)
      huge_pages_.slab_not_begun(slab->units * kUnitBytes);
    retained_bytes_.store(retained_bytes() + slab->units * kUnitBytes, std::memory_order_relaxed);
    slab->clear_free_map();
    slab->used = slab->carved = 0;
    slab->set_countdown(kNoThreshold);
    for (uint32_t i = slab->units; i-- > 0;) {
      slab[i].unit = 0;
      slab[i].state = SlabState::Free;
      slab[i].owner.store(owner::kFree, std::memory_order_relaxed);
    }
    bins_.unlink(superslab);
    superslab->free |= run;
    superslab->dirty |= run;
    superslab->mark_changed();
    bins_.link(superslab);
    size_t excess = policy_.excess(retained_bytes(), used_bytes_);
    lock_.unlock();
    if (excess > 0) [[unlikely]]
      purge(excess, shard);
  }

  // A second has passed: gives back a part of what is retained.
  void decay(uint32_t shard) {
    lock_.lock();
    size_t excess = policy_.decay(retained_bytes());
    lock_.unlock();
    if (excess > 0) purge(excess, shard);
  }

  // Purges until about `target` bytes were given back. Returns the bytes. Any thread.
  HAKMEM_COLD size_t purge(size_t target, uint32_t shard) {
    uint64_t start = 0;
    if constexpr (kBuild.stats) start = monotonic_nanoseconds();
    size_t purged = 0;
    while (purged < target) {
      size_t bytes = purge_one();
      if (bytes == 0) break;
      purged += bytes;
    }
    metrics::count_purge(shard, purged);
    if constexpr (kBuild.stats) metrics::count<metrics::Metric::kPurgeTime>(shard, monotonic_nanoseconds() - start);
    return purged;
  }

  // Unmaps every empty superslab; its record stays, for the day when the
  // addresses are mapped again. Returns the bytes. Any thread.
  HAKMEM_COLD size_t release_empty() {
    LockGuard guard(lock_);
    size_t bytes = 0;
    // A reader that began before may still follow a link into what is empty by
    // now; one that begins later finds no such link.
    if (!Readers<>::are_none(readers_)) return 0;
    while (Superslab* superslab = bins_.first_empty()) {
      bins_.unlink(superslab);
      size_t dirty_bytes = Superslab::bytes_of(superslab->dirty);
      retained_bytes_.store(retained_bytes() - dirty_bytes, std::memory_order_relaxed);
      superslab->dirty = superslab->purged = 0;
      superslab->is_released = true;
      superslab->is_huge = false;
      remove_guards(superslab, superslab->guarded);
      Memory::release(reinterpret_cast<void*>(superslab->address), kSuperslabBytes);
      superslab->next = released_;
      released_ = superslab;
      bytes += kSuperslabBytes;
    }
    return bytes;
  }

  // Keeps empty superslabs mapped while blocks are read without their owner.
  class ReaderScope {
   public:
    explicit ReaderScope(SuperslabHeap& heap) : heap_(heap) { Readers<>::enter(heap_.readers_); }
    ~ReaderScope() { Readers<>::leave(heap_.readers_); }
    ReaderScope(const ReaderScope&) = delete;
    ReaderScope& operator=(const ReaderScope&) = delete;

   private:
    SuperslabHeap& heap_;
  };

  // Gives back the ends of reservations. Returns the bytes. Any thread.
  HAKMEM_COLD size_t trim_reservations() {
    return arena_.trim_reservations([](uint32_t capacity) {
      // A thread that still reads the old bound does so for an address that is
      // not ours; the records it can reach are those of mapped superslabs.
      slab_map_units = size_t{capacity} * kUnitsPerSuperslab;
    });
  }

  // The record of the slab that holds `address`; null when no superslab does.
  // For a free unit that is its own record. Any thread, no lock.
  Slab* find(uintptr_t address) const {
    auto location = arena_.find(address);
    if (location.reservation == nullptr) return nullptr;
    const Reservation& reservation = *location.reservation;
    auto* slabs = reinterpret_cast<Slab*>(reservation.metadata);
    return slabs[(address - reservation.base) >> kUnitShift].head();
  }

  // Whether a large allocation or a block that is given back by now started at
  // `address`, in what find() found a free unit. A guess from what the records still
  // say, for a message.
  static bool was_allocated(const Slab* slab, uintptr_t address) {
    if (slab->superslab == nullptr) return false;
    auto index = static_cast<uint32_t>(slab - slab->superslab->slabs);
    for (uint32_t distance = 0; distance <= index; ++distance) {
      const Slab* head = slab - distance;
      if (head->owner.load(std::memory_order_relaxed) != owner::kFree) return false;
      if (head->units <= distance) continue;
      size_t block_bytes = head->size_class < kSizeClassCount ? head->shape().block_bytes : head->units * kUnitBytes;
      return (address - head->start) % block_bytes == 0;
    }
    return false;
  }

  // Free bytes that are not purged while slabs hold `used`. Any thread.
  size_t hold_back(size_t used) const HAKMEM_NO_THREAD_ANALYSIS { return policy_.hold_back(used); }
  // As HugePagePolicy.
  void set_thread_count(uint32_t count) { huge_pages_.set_thread_count(count); }
  // All blocks of the slab have been carved now. Any thread.
  void slab_carved_to_end(const Slab* slab) { huge_pages_.slab_not_begun(slab->units * kUnitBytes); }

  // All there ever were, in the order in which they were first mapped, also those that are released now.
  // Any thread, no lock.
  template <class Visit>
  void visit_superslabs(Visit visit) const {
    records_.visit(visit);
  }

  size_t retained_bytes() const { return retained_bytes_.load(std::memory_order_relaxed); }
  RankedLock& lock() { return lock_; }
  PageArena<Memory>& arena() { return arena_; }

  // Debug builds and tests, with no call under way.
  bool is_consistent() const HAKMEM_NO_THREAD_ANALYSIS { return bins_.is_consistent() && arena_.is_consistent(); }

 private:
  static constexpr uint32_t kMaxRemaps = 4;

  Superslab* map_released() HAKMEM_REQUIRES(lock_) {
    uint32_t tries = kMaxRemaps;
    for (Superslab** link_to = &released_; *link_to != nullptr && tries > 0; link_to = &(*link_to)->next, --tries) {
      Superslab* superslab = *link_to;
      if (!Memory::map_at(reinterpret_cast<void*>(superslab->address), kSuperslabBytes)) continue;
      *link_to = superslab->next;
      superslab->is_released = false;
      bins_.link(superslab);
      return superslab;
    }
    return nullptr;
  }

  Superslab* map_superslab() HAKMEM_REQUIRES(lock_) {
    if (released_ != nullptr) [[unlikely]] {
      if (Superslab* superslab = map_released(); superslab != nullptr) return superslab;
    }
    // The record first, and kept where the superslab itself cannot be had.
    if (!records_.prepare(arena_)) return nullptr;
    auto created = arena_.take_superslab();
    if (created.address == 0) return nullptr;
    Superslab* superslab = records_.take();
    superslab->address = created.address;
    superslab->slabs = reinterpret_cast<Slab*>(created.metadata);
    superslab->free = kAllUnits;
    for (uint32_t i = 0; i < kUnitsPerSuperslab; ++i) {
      superslab->slabs[i].start = created.address + i * kUnitBytes;
      superslab->slabs[i].superslab = superslab;
      superslab->slabs[i].free_map = SuperslabMaps::free_map_of(superslab, i, 0);
    }
    bins_.link(superslab);
    records_.show(superslab);
    if (created.reservation == 0 && created.index == 0) {
      slab_map_base = created.address;
      slab_map_records = superslab->slabs;
      slab_map_units = arena_.reservation(0).capacity * size_t{kUnitsPerSuperslab};
    }
    return superslab;
  }

  // Takes free units out of a superslab; returns how many bytes of them still hold pages.
  size_t take_units(Superslab* superslab, uint64_t run) HAKMEM_REQUIRES(lock_) {
    bins_.unlink(superslab);
    size_t dirty_bytes = Superslab::bytes_of(superslab->dirty & run);
    if (size_t purged_bytes = Superslab::bytes_of(superslab->purged & run); purged_bytes != 0)
      policy_.taken_again(purged_bytes, used_bytes_);
    superslab->free &= ~run;
    superslab->dirty &= ~run;
    superslab->purged &= ~run;
    bins_.link(superslab);
    used_bytes_ += Superslab::bytes_of(run);
    retained_bytes_.store(retained_bytes() - dirty_bytes, std::memory_order_relaxed);
    return dirty_bytes;
  }

  static void mark_interior(Slab* slab, uint32_t first, uint32_t end) {
    for (uint32_t i = first; i < end; ++i) {
      slab[i].unit = static_cast<uint16_t>(i);
      slab[i].owner.store(owner::kInterior, std::memory_order_relaxed);
    }
  }

  Slab* cut_span(Superslab* superslab, uint32_t units, SlabState state, uint32_t size_class, uint32_t step)
      HAKMEM_REQUIRES(lock_) {
    uint64_t steps = every_bit(step);  // superslabs are aligned
    // Units that still hold pages first: they cost no page fault.
    uint64_t starts = run_starts(superslab->dirty, units) & steps;
    if (starts == 0) starts = run_starts(superslab->free, units) & steps;
    uint32_t first = static_cast<uint32_t>(__builtin_ctzll(starts));
    if (superslab->state() == SuperslabState::Purged) allow_huge_page(superslab, huge_pages_.is_dense(used_bytes_));
    size_t dirty_bytes = take_units(superslab, bit_run(first, units));
    set_guard(superslab, bit_run(first, units));

    Slab* slab = superslab->slabs + first;
    mark_interior(slab, 1, units);
    slab->countdown = slab->countdown_start = kNoThreshold;
    slab->used = slab->carved = 0;
    slab->size_class = size_class;
    slab->free_map =
        SuperslabMaps::free_map_of(superslab, first, size_class < kSizeClassCount ? slab->shape().capacity : 0);
    slab->next = slab->previous = nullptr;
    slab->remote.store(0, std::memory_order_relaxed);
    slab->units = static_cast<uint16_t>(units);
    slab->zeroed = dirty_bytes == 0;
    slab->carve_time.clear();
    slab->state = state;
    if (size_class < kSizeClassCount) huge_pages_.slab_begun(units * kUnitBytes);
    superslab->mark_changed();
    return slab;
  }

  // The last page of the span `run` is without access, and no other of its pages. What
  // remains from an earlier span is kept where it fits: most spans are cut again as they were.
  // Best effort: the kernel may refuse.
  static void set_guard(Superslab* superslab, uint64_t run) {
    if constexpr (!has(Mitigation::kGuardPages)) return;
    uint32_t last = log2_floor(run);
    remove_guards(superslab, superslab->guarded & run & ~(uint64_t{1} << last));
    if ((superslab->guarded >> last & 1) == 0 && Memory::guard(guard_of(superslab, last), kGuardBytes))
      superslab->guarded |= uint64_t{1} << last;
  }
  static void remove_guards(Superslab* superslab, uint64_t units) {
    if constexpr (!has(Mitigation::kGuardPages)) return;
    for (uint64_t rest = units; rest != 0; rest &= rest - 1)
      Memory::unguard(guard_of(superslab, static_cast<uint32_t>(__builtin_ctzll(rest))), kGuardBytes);
    superslab->guarded &= ~units;
  }
  static void* guard_of(const Superslab* superslab, uint32_t unit) {
    return reinterpret_cast<void*>(superslab->address + (unit + 1) * kUnitBytes - kGuardBytes);
  }

  // What stands there already is not made a huge page by that.
  static void allow_huge_page(Superslab* superslab, bool allowed) {
    if (superslab->is_huge == allowed) return;
    superslab->is_huge = allowed;
    Memory::allow_huge_pages(reinterpret_cast<void*>(superslab->address), kSuperslabBytes, allowed);
  }

  // Purges the free units of one superslab. The system call runs without the
  // lock: meanwhile the units are neither free nor in a slab.
  size_t purge_one() {
    lock_.lock();
    Superslab* superslab = bins_.emptiest_dirty();
    if (superslab == nullptr) {
      lock_.unlock();
      return 0;
    }
    // On a huge page those that were never used hold pages, too.
    uint64_t units = superslab->is_huge ? superslab->free : superslab->dirty;
    size_t dirty_bytes = Superslab::bytes_of(superslab->dirty);
    // Else the kernel would fill the gaps in again.
    if (units != kAllUnits) allow_huge_page(superslab, false);
    bins_.unlink(superslab);
    superslab->free &= ~units;
    superslab->dirty = 0;
    bins_.link(superslab);
    retained_bytes_.store(retained_bytes() - dirty_bytes, std::memory_order_relaxed);
    lock_.unlock();

    bool is_purged = true;
    size_t bytes = Superslab::bytes_of(units);
    for (uint64_t rest = units; rest != 0;) {
      uint32_t first = static_cast<uint32_t>(__builtin_ctzll(rest));
      uint32_t length =
          ~(rest >> first) == 0 ? kUnitsPerSuperslab - first : static_cast<uint32_t>(__builtin_ctzll(~(rest >> first)));
      is_purged &= Memory::purge(reinterpret_cast<void*>(superslab->address + first * kUnitBytes), length * kUnitBytes);
      rest &= ~bit_run(first, length);
    }

    lock_.lock();
    bins_.unlink(superslab);
    superslab->free |= units;
    if (is_purged) {
      superslab->purged |= units;
    } else {  // refused, as for locked pages: they are as they were
      superslab->dirty |= units;
      retained_bytes_.store(retained_bytes() + bytes, std::memory_order_relaxed);
    }
    bins_.link(superslab);
    lock_.unlock();
    return is_purged ? bytes : 0;  // 0: no use to go on
  }

  PageArena<Memory>& arena_;
  RankedLock lock_{LockRank::kSuperslabs};
  PurgePolicy policy_ HAKMEM_GUARDED_BY(lock_);
  size_t used_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;
  std::atomic<size_t> retained_bytes_{0};                   // written under lock_; free units that hold pages
  std::atomic<uint32_t> readers_{0};                        // visits of views under way
  HugePagePolicy huge_pages_;                               // used under lock_, but where it says otherwise
  SuperslabRecords<Memory> records_;                        // changed under lock_
  Superslab* released_ HAKMEM_GUARDED_BY(lock_) = nullptr;  // unmapped superslabs, through next
  SuperslabBins bins_ HAKMEM_GUARDED_BY(lock_);
};

}  // namespace hakmem
