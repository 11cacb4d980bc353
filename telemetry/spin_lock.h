// A lock for very short sections inside malloc. Whoever cannot have it for a long
// time does without: in a child that was forked in the middle, nobody will open it.
#pragma once

#include <time.h>

#include <atomic>

namespace hakmem::telemetry {

class SpinLock {
 public:
  // False after some 100 ms, or when `is_hopeless` says so. May change errno.
  bool try_lock(bool (*is_hopeless)()) {
    for (int attempt = 0; attempt < kSpins; ++attempt)
      if (!is_held_.load(std::memory_order_relaxed) && !is_held_.exchange(true, std::memory_order_acquire)) return true;
    for (int attempt = 0; attempt < kSleeps && !is_hopeless(); ++attempt) {
      timespec pause{0, 50'000};
      nanosleep(&pause, nullptr);
      if (!is_held_.exchange(true, std::memory_order_acquire)) return true;
    }
    return false;
  }
  void unlock() { is_held_.store(false, std::memory_order_release); }
  bool is_held() const { return is_held_.load(std::memory_order_relaxed); }

 private:
  static constexpr int kSpins = 200;
  static constexpr int kSleeps = 1000;
  std::atomic<bool> is_held_{false};
};

}  // namespace hakmem::telemetry
