// Times the steps of superslab_refill; empty in the release build.
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
      shard_ = shard;
      last_ = ticks();
    }
  }

  // The time since the last boundary goes to `step`.
  void finish(RefillStep step) {
    if constexpr (kBuild.stats) {
      uint64_t now = ticks();
      observe_time<Metric::kSuperslabRefillTime>(shard_, static_cast<uint32_t>(step),
                                                 Ticks<true>::scale.nanoseconds(last_, now));
      last_ = now;
    }
  }

 private:
  uint32_t shard_ = 0;
  uint64_t last_ = 0;
};

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
