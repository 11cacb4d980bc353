// The one heap of the process: what all threads share.
#pragma once

#include <atomic>
#include <type_traits>

#include "allocator/base/assert.h"
#include "allocator/base/build_profile.h"
#include "allocator/base/message.h"
#include "allocator/page_arena/counted_memory.h"
#include "allocator/page_arena/huge_heap.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/platform/virtual_memory.h"
#include "allocator/shared_pool/shared_pool.h"
#include "allocator/superslab/superslab_heap.h"

namespace hakmem {

using SystemMemory = std::conditional_t<kBuild.stats, CountedMemory<LinuxMemory>, LinuxMemory>;

struct Heap {
  constexpr Heap() = default;

  // superslab_refill and the huge allocation, which when there is no memory
  // try once more after giving back all addresses that hold nothing.
  Slab* take_span(uint32_t units, SlabState state, uint32_t size_class, uint32_t shard, uint32_t step = 1) {
    Slab* slab = superslabs.take_span(units, state, size_class, shard, step);
    if (slab == nullptr && reclaim_addresses(shard)) slab = superslabs.take_span(units, state, size_class, shard, step);
    return slab;
  }
  HugeHeap<SystemMemory>::Allocation allocate_huge(size_t bytes, size_t alignment, uint32_t shard) {
    auto allocation = huge.allocate(bytes, alignment, shard);
    if (allocation.address == nullptr && reclaim_addresses(shard)) allocation = huge.allocate(bytes, alignment, shard);
    return allocation;
  }

  // Lets time pass: gives back a part of what was retained for long. Called on
  // cold paths, does something once a second, and that is bounded.
  void decay(uint32_t shard) {
    if (decay_clock.is_due(coarse_milliseconds())) [[unlikely]]
      decay_now(shard);
  }
  HAKMEM_COLD void decay_now(uint32_t shard);

  // Whether blocks that nobody asked the pool for are to go back to their slabs: once after
  // each turn of decay(), whoever had it, as most of its callers are in no state to see to that.
  bool is_drain_due() {
    return drain_due_.load(std::memory_order_relaxed) && drain_due_.exchange(false, std::memory_order_relaxed);
  }

  // In seconds, of those in which something called decay().
  uint32_t age() const { return age_.load(std::memory_order_relaxed); }

  // Unmaps what holds nothing: retained huge mappings, empty superslabs, and
  // under a limit of the address space the ends of reservations. The kernel
  // has refused a mapping. True when there was something.
  HAKMEM_COLD bool reclaim_addresses(uint32_t shard);

  // What is wrong with a pointer that is none to a live block. Any thread.
  HAKMEM_COLD Message misuse_of(const void* address);

  // First what has a pointer for the loader to relocate.
  SuperslabHeap<SystemMemory> superslabs{arena};
  HugeHeap<SystemMemory> huge{arena};
  SharedPool pool{pool_places};
  DecayClock decay_clock;
  PageArena<SystemMemory> arena;

 private:
  static SharedPool::Places pool_places;

  std::atomic<bool> drain_due_{false};
  std::atomic<uint32_t> age_{0};  // written by whoever the clock tells
};

HAKMEM_HIDDEN extern Heap heap;

}  // namespace hakmem
