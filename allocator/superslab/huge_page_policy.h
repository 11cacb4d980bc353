// Which superslabs stand on huge pages.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/base/mitigations.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

// Used under the lock of SuperslabHeap, but for the count of threads.
class HugePagePolicy {
 public:
  // How many threads take spans. Any thread, one at a time.
  void set_thread_count(uint32_t count) { thread_count_.store(count, std::memory_order_relaxed); }

  // In a forked child, which would have to copy what it shares with its parent.
  void stop_collapsing() { may_collapse_ = false; }

  // Whether they do while slabs use so much.
  bool is_dense(size_t used_bytes) const {
    if constexpr (has(Mitigation::kGuardPages)) return false;  // a huge page has no page of its own to guard
    size_t threads = thread_count_.load(std::memory_order_relaxed);
    size_t few = threads < kFewThreads ? threads : kFewThreads;
    return used_bytes + kFirstThreadLess >= (2 * threads - few) * (kFromPerThread / 2);
  }

  // Whether the small pages of a superslab are to become a huge one: a heap of this size has them, and
  // blocks were cut from half of it. That takes some hundred page faults less than to touch the rest. A slab
  // that was begun may have hardly a page, and large allocations need not be touched.
  bool outgrows_small_pages(Superslab* superslab, size_t used_bytes) const {
    uint32_t used_units = kUnitsPerSuperslab - static_cast<uint32_t>(__builtin_popcount(superslab->free));
    if (used_units < kUnitsPerSuperslab / 2 || used_units <= superslab->looked_at) return false;
    if (!may_collapse_ || superslab->was_purged || !is_dense(used_bytes)) return false;
    superslab->looked_at = static_cast<uint8_t>(used_units);
    return carved_bytes(superslab) >= kSuperslabBytes / 2;
  }

 private:
  // A process whose slabs use less, or less a thread, is not made larger by pages that
  // it touches in part: each thread has a slab of every class that it has just begun.
  static constexpr size_t kFromPerThread = 3 * kMiB;
  // Of few threads half of that, and of the first less: what they could waste is little.
  static constexpr size_t kFewThreads = 8;
  static constexpr size_t kFirstThreadLess = 512 * kKiB;

  // Of the blocks that were cut from its slabs, as of some moment.
  static size_t carved_bytes(const Superslab* superslab) {
    size_t bytes = 0;
    for (uint32_t unit = 0; unit < kUnitsPerSuperslab;) {
      Slab& slab = superslab->slabs[unit];
      bool is_used = (superslab->free >> unit & 1) == 0;
      if (is_used && slab.size_class < kSizeClassCount)
        bytes += std::atomic_ref(slab.carved).load(std::memory_order_relaxed) * size_t{slab.shape().block_bytes};
      unit += is_used ? slab.units : 1u;
    }
    return bytes;
  }

  std::atomic<uint32_t> thread_count_{1};  // a hint
  bool may_collapse_ = true;
};

}  // namespace hakmem
