// A futex lock with a rank. It is constant-initialised, never allocates, and
// can be taken before constructors and after destructors. It knows its holder, so
// that a fork in a signal handler can tell what the call it interrupted holds.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "allocator/base/assert.h"
#include "allocator/base/build_profile.h"
#include "allocator/base/lock_stats.h"
#include "allocator/base/thread_annotations.h"

namespace hakmem {

// Lock order: a thread that holds a lock takes only locks of a higher rank.
// fork() takes them all in this order.
enum class LockRank : uint8_t {
  kThreadRegistry,
  kSharedPool,
  kSamples,
  kSuperslabs,
  kHuge,
  kPageArena,
  kPrivateHeap,  // taken in builds with statistics alone
  kCount
};

// Ranks held by this thread, checked in builds with assertions only (a
// template, so that other builds have no such variable).
template <bool enabled>
struct HeldRanks {
  static inline thread_local uint32_t mask = 0;
};

class HAKMEM_CAPABILITY("mutex") RankedLock {
 public:
  explicit constexpr RankedLock(LockRank rank) : rank_(rank) {}
  RankedLock(const RankedLock&) = delete;
  RankedLock& operator=(const RankedLock&) = delete;

  // Keeps errno.
  void lock() HAKMEM_ACQUIRE() {
    if constexpr (kBuild.assertions) HAKMEM_ASSERT(HeldRanks<true>::mask >> static_cast<uint32_t>(rank_) == 0);
    if (!take_free()) [[unlikely]]
      wait();
    note_taken();
  }

  // In any order of ranks; false when another thread has it.
  bool try_lock() HAKMEM_TRY_ACQUIRE(true) {
    if (!take_free()) return false;
    note_taken();
    return true;
  }

  void unlock() HAKMEM_RELEASE() {
    if constexpr (kBuild.assertions) HeldRanks<true>::mask &= ~(1u << static_cast<uint32_t>(rank_));
    if ((state_.exchange(kFree, std::memory_order_release) & kHasWaiters) != 0) [[unlikely]]
      wake();
  }

  bool is_held() const { return state_.load(std::memory_order_relaxed) != kFree; }
  // By the calling thread; right at any instruction that a signal handler may interrupt.
  bool is_mine() const { return (state_.load(std::memory_order_relaxed) & ~kHasWaiters) == mark_of_this_thread(); }

  // Zeroes in the release build. Any thread.
  LockStatsView stats() const { return stats_.view(); }

 private:
  // Free, or the mark of the holder, with a bit that somebody sleeps.
  static constexpr uint32_t kFree = 0, kHasWaiters = 1, kIsMark = 2;

  // The page of the thread's control block, of which no other thread has one; so two
  // marks are the same only at a distance that is a multiple of 4 TiB. Known to a thread
  // from its first instruction, and kept by the child of a fork.
  static uint32_t mark_of_this_thread() {
    uintptr_t control_block;
    asm("mov %%fs:0, %0" : "=r"(control_block));
    return static_cast<uint32_t>(control_block >> 12) << 2 | kIsMark;
  }

  bool take_free() {
    uint32_t expected = kFree;
    // Acquire pairs with the release in unlock().
    return state_.compare_exchange_strong(expected, mark_of_this_thread(), std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }

  void note_taken() {
    if constexpr (kBuild.assertions) HeldRanks<true>::mask |= 1u << static_cast<uint32_t>(rank_);
    stats_.count_acquisition();
  }

  // Written by the holder only, so that a load and a store make an increment;
  // read by telemetry at any time.
  struct Stats {
    std::atomic<uint64_t> acquisitions{0}, waits{0}, wait_nanoseconds{0};
    static void add(std::atomic<uint64_t>& to, uint64_t amount) {
      to.store(to.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    void count_acquisition() { add(acquisitions, 1); }
    void count_wait(uint64_t nanoseconds) {
      add(waits, 1);
      add(wait_nanoseconds, nanoseconds);
    }
    LockStatsView view() const {
      return {acquisitions.load(std::memory_order_relaxed), waits.load(std::memory_order_relaxed),
              wait_nanoseconds.load(std::memory_order_relaxed)};
    }
  };
  struct NoStats {
    void count_acquisition() {}
    void count_wait(uint64_t) {}
    LockStatsView view() const { return {}; }
  };

  HAKMEM_COLD void wait();
  HAKMEM_COLD void wake();

  std::atomic<uint32_t> state_{kFree};
  LockRank rank_;
  [[no_unique_address]] std::conditional_t<kBuild.stats, Stats, NoStats> stats_{};
};

class HAKMEM_SCOPED_CAPABILITY LockGuard {
 public:
  explicit LockGuard(RankedLock& lock) HAKMEM_ACQUIRE(lock) : lock_(lock) { lock_.lock(); }
  ~LockGuard() HAKMEM_RELEASE() { lock_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  RankedLock& lock_;
};

}  // namespace hakmem
