// Time: a coarse clock for decay, a fine one for the steps of superslab_refill, the rate of refills and what
// must not be asked of the clock each time.
#pragma once

#include <time.h>

#include <cstdint>

namespace hakmem {

// Milliseconds since boot, a few milliseconds coarse; costs no system call.
inline uint64_t coarse_milliseconds() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000u + static_cast<uint64_t>(now.tv_nsec) / 1'000'000u;
}

inline uint64_t monotonic_nanoseconds() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

// The time-stamp counter: about 20 cycles, runs on while the thread is preempted.
inline uint64_t ticks() { return __builtin_ia32_rdtsc(); }

}  // namespace hakmem
