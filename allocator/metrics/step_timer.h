// Times the steps of superslab_refill, kernel calls and slow calls; empty in the
// release build.
#pragma once

#include "allocator/base/build_profile.h"
#include "allocator/metrics/counters.h"
#include "allocator/platform/tick_scale.h"

namespace hakmem::metrics {

// A template, so that only builds with statistics have the variable.
template <bool enabled>
struct Ticks {
  static inline constinit TickScale scale{};
};

class StepTimer {
 public:
  explicit StepTimer(uint32_t shard) {
    if constexpr (kBuild.stats) {
      shard_ = shard_now(shard);
      last_ = ticks();
    }
  }

  // The time since the last boundary goes to `step`.
  void finish(RefillStep step) {
    if constexpr (kBuild.stats) {
      uint64_t now = ticks();
      add_time<Metric::kSuperslabRefillTime>(shard_, static_cast<uint32_t>(step),
                                             Ticks<true>::scale.nanoseconds(last_, now));
      last_ = now;
    }
  }

 private:
  Shard shard_{nullptr, false};
  uint64_t last_ = 0;
};

// From its start to its end, one kernel call. They are rare: one shard serves all threads.
class KernelCallTimer {
 public:
  explicit KernelCallTimer(KernelCall call) : call_(static_cast<uint32_t>(call)), start_(ticks()) {}
  ~KernelCallTimer() {
    if constexpr (kBuild.stats) {
      Shard shard = shard_now(0);
      shard.add<Metric::kKernelCalls>(call_, 1);
      shard.add<Metric::kKernelCallTime>(call_, Ticks<true>::scale.nanoseconds(start_, ticks()));
    }
  }
  KernelCallTimer(const KernelCallTimer&) = delete;
  KernelCallTimer& operator=(const KernelCallTimer&) = delete;

 private:
  uint32_t call_;
  uint64_t start_;
};

// From its start to its end, one slow call.
class SlowCallTimer {
 public:
  SlowCallTimer(Shard shard, SlowCall call) : shard_(shard), call_(static_cast<uint32_t>(call)), start_(ticks()) {}
  ~SlowCallTimer() {
    add_time<Metric::kSlowCallTime>(shard_, call_, Ticks<kBuild.stats>::scale.nanoseconds(start_, ticks()));
  }
  SlowCallTimer(const SlowCallTimer&) = delete;
  SlowCallTimer& operator=(const SlowCallTimer&) = delete;

 private:
  Shard shard_;
  uint32_t call_;
  uint64_t start_;
};

// Not inlined: calls that are not timed need none of the registers that it saves.
template <class Call>
[[gnu::noinline]] auto timed_call(Shard shard, SlowCall which, Call call) {
  SlowCallTimer timer(shard, which);
  return call();
}

// Makes a slow call of the thread with the number, one in kSlowCallInterval with its time taken.
// Those that are not timed pay five instructions, if `call` holds copies of what it needs.
template <bool enabled, class Call>
inline auto slow_call(ThreadCounters<enabled>& counters, uint32_t number, SlowCall which, Call call) {
  if constexpr (enabled) {
    if (counters.is_slow_call_timed()) [[unlikely]] {
      counters.follow_sink(number);
      return timed_call(counters.shard(), which, call);
    }
  }
  return call();
}

// The time of carving one slab, bit by bit: added up in ticks, and observed as
// one time of the carve step when the slab is carved whole or given back.
// Written by whoever carves.
template <bool enabled>
class CarveTime {
 public:
  void clear() { ticks_ = 0; }
  void start() { ticks_ -= ticks(); }
  void stop() { ticks_ += ticks(); }
  void observe(uint32_t shard) {
    if (ticks_ == 0) return;
    observe_time<Metric::kSuperslabRefillTime>(shard, static_cast<uint32_t>(RefillStep::Carve),
                                               Ticks<enabled>::scale.nanoseconds(0, ticks_));
    ticks_ = 0;
  }

 private:
  uint64_t ticks_;
};
template <>
class CarveTime<false> {
 public:
  void clear() {}
  void start() {}
  void stop() {}
  void observe(uint32_t) {}
};

}  // namespace hakmem::metrics
