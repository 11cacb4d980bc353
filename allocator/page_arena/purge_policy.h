// How much free memory to hold back from the kernel.
//
// Page faults separate allocators more than anything else, so memory that was
// just freed is held back: max(128 MiB, 10 % of what is used), more while the
// process keeps taking again what was purged, and less as time passes; never more
// than an eighth of what its container may have.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"

namespace hakmem {

// Guarded by the lock of whoever owns it, but for hold_back(), which any thread may ask.
class PurgePolicy {
 public:
  // Less than what a process of some 100 MiB frees and takes again within a second
  // costs it more page faults than all else (docs/measurements.md).
  static constexpr size_t kMinHoldBack = 128 * kMiB;
  static constexpr size_t kLongRetained = 32 * kMiB;

  // Free bytes to keep while `used` are in use.
  size_t hold_back(size_t used) const {
    size_t wanted = (used / 10 > kMinHoldBack ? used / 10 : kMinHoldBack) + churn_.load(std::memory_order_relaxed);
    size_t most = most_.load(std::memory_order_relaxed);
    return wanted < most ? wanted : most;
  }

  // The process may have so much memory, at whose limit the kernel ends it, whatever of it is free. Of all
  // policies: superslabs and huge mappings have one each. Any thread; known from the start of the process on.
  static void limit_memory(size_t bytes) { most_.store(bytes / 8, std::memory_order_relaxed); }

  // Bytes by which `retained` exceeds the hold-back; 0 when it does not.
  size_t surplus(size_t retained, size_t used) const {
    size_t kept = hold_back(used);
    if (retained <= kept) return 0;
    // A little below the limit, so that the next free does not purge again.
    return retained - kept + kPurgeStep;
  }

  // The part of it to purge now; at most kMaxPurgeBytes, so that no single free takes long.
  size_t excess(size_t retained, size_t used) const {
    size_t bytes = surplus(retained, used);
    return bytes < kMaxPurgeBytes ? bytes : kMaxPurgeBytes;
  }

  // Purged memory was taken into use again, `used` with it: purging it was a loss.
  void taken_again(size_t bytes, size_t used) {
    size_t limit = used / 2 + kMaxPurgeBytes;
    size_t churn = churn_.load(std::memory_order_relaxed) + bytes;
    churn_.store(churn < limit ? churn : limit, std::memory_order_relaxed);
  }

  // A second has passed: bytes to purge, for those who follow it so many that what
  // exceeds kLongRetained goes in some seconds, and half of the rest in about ten.
  size_t decay(size_t retained) {
    size_t churn = churn_.load(std::memory_order_relaxed);
    churn_.store(churn - churn / 8, std::memory_order_relaxed);
    size_t surplus = retained > kLongRetained ? retained - kLongRetained : 0;
    size_t part = retained / 16 > surplus / 4 ? retained / 16 : surplus / 4;
    return part < kMaxPurgeBytes ? part : kMaxPurgeBytes;
  }

 private:
  static constexpr size_t kPurgeStep = 1 * kMiB;
  static constexpr size_t kMaxPurgeBytes = 16 * kMiB;

  static inline constinit std::atomic<size_t> most_{SIZE_MAX};
  std::atomic<size_t> churn_{0};
};

// Tells one thread a second that a second has passed.
class DecayClock {
 public:
  bool is_due(uint64_t now_milliseconds) {
    uint64_t next = next_.load(std::memory_order_relaxed);
    if (now_milliseconds < next) [[likely]]
      return false;
    return next_.compare_exchange_strong(next, now_milliseconds + kPeriodMilliseconds, std::memory_order_relaxed) &&
           next != 0;
  }

 private:
  static constexpr uint64_t kPeriodMilliseconds = 1000;
  std::atomic<uint64_t> next_{0};
};

}  // namespace hakmem
