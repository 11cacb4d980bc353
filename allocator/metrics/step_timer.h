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
      slots_ = shard_slots(shard);
      last_ = ticks();
    }
  }

  // The time since the last boundary goes to `step`.
  void finish(RefillStep step) {
    if constexpr (kBuild.stats) {
      uint64_t now = ticks();
      add_time<Metric::kSuperslabRefillTime>(slots_, static_cast<uint32_t>(step),
                                             Ticks<true>::scale.nanoseconds(last_, now));
      last_ = now;
    }
  }

 private:
  Slot* slots_ = nullptr;
  uint64_t last_ = 0;
};

// From its start to its end, one kernel call. They are rare: one shard serves all threads.
class KernelCallTimer {
 public:
  explicit KernelCallTimer(KernelCall call) : call_(static_cast<uint32_t>(call)), start_(ticks()) {}
  ~KernelCallTimer() {
    if constexpr (kBuild.stats) {
      Slot* slots = shard_slots(0);
      add<Metric::kKernelCalls>(slots, call_, 1);
      add<Metric::kKernelCallTime>(slots, call_, Ticks<true>::scale.nanoseconds(start_, ticks()));
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
  SlowCallTimer(Slot* slots, SlowCall call) : slots_(slots), call_(static_cast<uint32_t>(call)), start_(ticks()) {}
  ~SlowCallTimer() {
    add_time<Metric::kSlowCallTime>(slots_, call_, Ticks<kBuild.stats>::scale.nanoseconds(start_, ticks()));
  }
  SlowCallTimer(const SlowCallTimer&) = delete;
  SlowCallTimer& operator=(const SlowCallTimer&) = delete;

 private:
  Slot* slots_;
  uint32_t call_;
  uint64_t start_;
};

// Not inlined: calls that are not timed need none of the registers that it saves.
template <class Call>
[[gnu::noinline]] auto timed_call(Slot* slots, SlowCall which, Call call) {
  SlowCallTimer timer(slots, which);
  return call();
}

// Makes a slow call, one in kSlowCallInterval of a thread with its time taken.
// Those that are not timed pay five instructions, if `call` holds copies of what it needs.
template <bool enabled, class Call>
inline auto slow_call(ThreadCounters<enabled>& counters, SlowCall which, Call call) {
  if constexpr (enabled) {
    if (counters.is_slow_call_timed()) [[unlikely]]
      return timed_call(counters.slots(), which, call);
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
