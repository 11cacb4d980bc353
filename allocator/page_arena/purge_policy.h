// How much free memory to hold back from the kernel.
//
// Page faults separate allocators more than anything else, so memory that was
// just freed is held back: max(32 MiB, 10 % of what is used), more while the
// process keeps taking again what was purged, and less as time passes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"

namespace hakmem {

// Guarded by the lock of whoever owns it, but for decay_is_due().
class PurgePolicy {
 public:
  // Bytes to purge now, given what is retained and used; at most kMaxPurgeBytes,
  // so that no single free takes long.
  size_t excess(size_t retained, size_t used) {
    size_t hold_back = used / 10 > kMinHoldBack ? used / 10 : kMinHoldBack;
    hold_back += churn_;
    if (used > peak_used_) peak_used_ = used;
    if (retained <= hold_back) return 0;
    // A little below the limit, so that the next free does not purge again.
    size_t excess = retained - hold_back + kPurgeStep;
    return excess < kMaxPurgeBytes ? excess : kMaxPurgeBytes;
  }

  // Purged memory was taken into use again: purging it was a loss.
  void taken_again(size_t bytes) {
    churn_ += bytes;
    if (churn_ > peak_used_) churn_ = peak_used_;
  }

  // Whether decay() has something to do. Any thread.
  bool decay_is_due(uint64_t now_milliseconds) const {
    return now_milliseconds >= next_decay_.load(std::memory_order_relaxed);
  }

  // Bytes to purge because time has passed: half of what is retained in about
  // ten seconds.
  size_t decay(uint64_t now_milliseconds, size_t retained) {
    if (!decay_is_due(now_milliseconds)) return 0;
    bool is_first = next_decay_.load(std::memory_order_relaxed) == 0;
    next_decay_.store(now_milliseconds + kDecayMilliseconds, std::memory_order_relaxed);
    if (is_first) return 0;
    churn_ -= churn_ / 16;
    size_t part = retained / 16;
    return part < kMaxPurgeBytes ? part : kMaxPurgeBytes;
  }

 private:
  static constexpr size_t kMinHoldBack = 32 * kMiB;
  static constexpr size_t kPurgeStep = 1 * kMiB;
  static constexpr size_t kMaxPurgeBytes = 16 * kMiB;
  static constexpr uint64_t kDecayMilliseconds = 1000;

  size_t churn_ = 0;
  size_t peak_used_ = 0;
  std::atomic<uint64_t> next_decay_{0};
};

}  // namespace hakmem
