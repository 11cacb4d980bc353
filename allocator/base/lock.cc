#include "allocator/base/lock.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace hakmem {
namespace {

// Spinning pays only while the holder runs on another core; the sections are
// short but for page faults.
constexpr int kSpins = 64;

uint64_t now_nanoseconds() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

void RankedLock::wait() {
  int saved_errno = errno;
  uint64_t start = 0;
  if constexpr (kBuild.stats) start = now_nanoseconds();

  bool taken = false;
  for (int i = 0; i < kSpins && !taken; ++i) {
    __builtin_ia32_pause();
    taken = state_.load(std::memory_order_relaxed) == kFree && take_free();
  }
  // Whom the holder wakes may be in a signal handler that forks, and so wait for another
  // lock before it comes to take this one: whoever sleeps looks again by himself.
  const timespec longest_sleep{0, 10'000'000};
  while (!taken) {
    uint32_t seen = state_.load(std::memory_order_relaxed);
    // Whoever has slept leaves the lock marked, since others may sleep: its holder wakes somebody.
    if (seen == kFree)
      taken = state_.compare_exchange_strong(seen, mark_of_this_thread() | kHasWaiters, std::memory_order_acquire,
                                             std::memory_order_relaxed);
    else if ((seen & kHasWaiters) != 0 ||
             state_.compare_exchange_strong(seen, seen | kHasWaiters, std::memory_order_relaxed))
      ::syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, seen | kHasWaiters, &longest_sleep, nullptr, 0);
  }

  if constexpr (kBuild.stats) stats_.count_wait(now_nanoseconds() - start);
  errno = saved_errno;
}

void RankedLock::wake() {
  int saved_errno = errno;
  ::syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  errno = saved_errno;
}

}  // namespace hakmem
