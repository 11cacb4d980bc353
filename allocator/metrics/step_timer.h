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

}  // namespace hakmem::metrics
