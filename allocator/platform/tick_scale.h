// Conversion of time-stamp ticks to nanoseconds, for builds with statistics.
#pragma once

#include <atomic>
#include <cstdint>

#include "allocator/platform/clock.h"

namespace hakmem {

// Calibrates itself against CLOCK_MONOTONIC: the span measured grows with the
// life of the process until it is long enough to be exact to 0.1 %.
class TickScale {
 public:
  // Any thread. Zero for a negative difference (another core's counter).
  uint64_t nanoseconds(uint64_t start_ticks, uint64_t end_ticks) {
    if (!settled_.load(std::memory_order_relaxed)) [[unlikely]]
      calibrate();
    if (end_ticks <= start_ticks) return 0;
    Wide scaled = static_cast<Wide>(end_ticks - start_ticks) * nanoseconds_per_tick_.load(std::memory_order_relaxed);
    return static_cast<uint64_t>(scaled >> kFractionBits);
  }

 private:
  __extension__ using Wide = unsigned __int128;
  static constexpr uint32_t kFractionBits = 32;
  static constexpr uint64_t kSettledNanoseconds = 20'000'000;

  [[gnu::cold, gnu::noinline]] void calibrate() {
    uint64_t now_ticks = ticks();
    uint64_t now = monotonic_nanoseconds();
    uint64_t unset = 0;
    if (first_ticks_.load(std::memory_order_relaxed) == 0) {
      if (first_ticks_.compare_exchange_strong(unset, now_ticks, std::memory_order_relaxed))
        first_nanoseconds_.store(now, std::memory_order_release);
      return;
    }
    uint64_t first = first_nanoseconds_.load(std::memory_order_acquire);  // pairs with the release above
    uint64_t elapsed_ticks = now_ticks - first_ticks_.load(std::memory_order_relaxed);
    if (first == 0 || now <= first || elapsed_ticks == 0) return;
    Wide scaled = static_cast<Wide>(now - first) << kFractionBits;
    nanoseconds_per_tick_.store(static_cast<uint64_t>(scaled / elapsed_ticks), std::memory_order_relaxed);
    if (now - first > kSettledNanoseconds) settled_.store(true, std::memory_order_relaxed);
  }

  std::atomic<uint64_t> first_ticks_{0};
  std::atomic<uint64_t> first_nanoseconds_{0};
  // Until the first calibration: a 2 GHz counter, for the first few times only.
  std::atomic<uint64_t> nanoseconds_per_tick_{uint64_t{1} << (kFractionBits - 1)};
  std::atomic<bool> settled_{false};
};

}  // namespace hakmem
