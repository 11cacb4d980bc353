// Which superslabs stand on huge pages.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/mitigations.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

// Used under the lock of SuperslabHeap, but for the count of threads.
class HugePagePolicy {
 public:
  // How many threads take spans. Any thread, one at a time.
  void set_thread_count(uint32_t count) { thread_count_.store(count, std::memory_order_relaxed); }

  // Whether they do while slabs use so much.
  bool is_dense(size_t used_bytes) const {
    if constexpr (has(Mitigation::kGuardPages)) return false;  // a huge page has no page of its own to guard
    size_t threads = thread_count_.load(std::memory_order_relaxed);
    size_t few = threads < kFewThreads ? threads : kFewThreads;
    return used_bytes + kFirstThreadLess >= (2 * threads - few) * (kFromPerThread / 2);
  }

 private:
  // A process whose slabs use less, or less a thread, is not made larger by pages that
  // it touches in part: each thread has a slab of every class that it has just begun.
  static constexpr size_t kFromPerThread = 3 * kMiB;
  // Of few threads half of that, and of the first less: what they could waste is little.
  static constexpr size_t kFewThreads = 8;
  static constexpr size_t kFirstThreadLess = 512 * kKiB;

  std::atomic<uint32_t> thread_count_{1};  // a hint
};

}  // namespace hakmem
