// Which superslabs stand on huge pages.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/mitigations.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

// Used under the lock of SuperslabHeap, but where it is said otherwise.
class HugePagePolicy {
 public:
  // More are many: here, and where threads share slabs.
  static constexpr uint32_t kFewThreads = 8;

  // So many threads take spans. Any thread, one at a time.
  void set_thread_count(uint32_t count) { thread_count_.store(count, std::memory_order_relaxed); }

  // A slab of so many bytes was begun; and is no longer, as all its blocks are carved or it was given back. Any thread.
  void slab_begun(size_t bytes) { begun_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void slab_not_begun(size_t bytes) { begun_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

  // Whether threads use slabs densely, which use so much.
  bool is_dense(size_t used_bytes) const {
    if constexpr (has(Mitigation::kGuardPages)) return false;  // a huge page has no page of its own to guard
    size_t threads = thread_count_.load(std::memory_order_relaxed);
    size_t begun = begun_bytes_.load(std::memory_order_relaxed);
    if (threads > kFewThreads && begun > used_bytes - used_bytes / kPartInFullSlabs) return false;
    size_t few = threads < kFewThreads ? threads : size_t{kFewThreads};
    return used_bytes + kFirstThreadLess >= few * kFromPerThread + (threads - few) * kFromPerFurther;
  }

 private:
  // A process whose slabs use less, or less a thread, is not made larger by pages that
  // it touches in part: each thread has a slab of every class that it has just begun.
  static constexpr size_t kFromPerThread = 1 * kMiB;
  static constexpr size_t kFirstThreadLess = 256 * kKiB;  // what it could waste is little
  static constexpr size_t kFromPerFurther = 3 * kMiB;     // thread above kFewThreads
  // Nor one in which more threads have begun slabs of many classes and filled few: at least this part of what slabs
  // use has to be in slabs that are carved to their end.
  static constexpr size_t kPartInFullSlabs = 4;

  std::atomic<size_t> begun_bytes_{0};     // a hint: a child forked in the middle of a change counts on
  std::atomic<uint32_t> thread_count_{1};  // a hint
};

}  // namespace hakmem
