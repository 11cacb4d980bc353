// Reads what the allocator counted; zero in the release build, which counts nothing.
#pragma once

#include <cstdint>

#include "allocator/metrics/counters.h"
#include "allocator/metrics/heap_view.h"

namespace hakmem::test {

// Sum over the shards of slot `index` of `metric`. Not while the sink is moved.
template <metrics::Metric metric>
uint64_t counter(uint32_t index = 0) {
  uint64_t sum = 0;
  if constexpr (kBuild.stats) {
    const metrics::Slot* shards = metrics::counter_sink.shards.load(std::memory_order_acquire);
    uint32_t count = metrics::counter_sink.shard_mask.load(std::memory_order_acquire) + 1;
    for (uint32_t shard = 0; shard < count; ++shard)
      sum += shards[shard * metrics::kShardSlots + metrics::kFirstSlot<metric> + index].load(std::memory_order_relaxed);
  }
  return sum;
}

// Objects that refills of the class handed out, from all sources.
inline uint64_t refill_objects(uint32_t size_class) {
  constexpr uint32_t kSources = metrics::kCountOf<metrics::RefillSource>;
  uint64_t sum = 0;
  for (uint32_t source = 0; source < kSources; ++source)
    sum += counter<metrics::Metric::kRefillObjects>(size_class * kSources + source);
  return sum;
}

// Sets the mean bytes between samples and follows them, and sets it back at the end.
// Countdowns that were drawn before run out with the old mean.
class SampleInterval {
 public:
  explicit SampleInterval(uint64_t bytes) {
    if constexpr (kBuild.stats) {
      saved_ = metrics::sample_interval_bytes.exchange(bytes);
      saved_hook_ = metrics::hooks.on_sample;
      if (saved_hook_ == nullptr) follow(true);
    }
  }
  ~SampleInterval() {
    if constexpr (kBuild.stats) {
      metrics::hooks.on_sample = saved_hook_;
      metrics::sample_interval_bytes.store(saved_);
    }
  }
  SampleInterval(const SampleInterval&) = delete;
  SampleInterval& operator=(const SampleInterval&) = delete;

  static void follow(bool follow) {
    follow_by(follow ? +[](const metrics::Sample&) {} : nullptr);
  }
  static void follow_by(void (*hook)(const metrics::Sample&)) {
    if constexpr (kBuild.stats) metrics::hooks.on_sample = hook;
  }
  // As telemetry does it where samples come too fast.
  static void set_doublings(uint32_t doublings) {
    if constexpr (kBuild.stats) metrics::sample_doublings = doublings;
  }

 private:
  uint64_t saved_ = 0;
  void (*saved_hook_)(const metrics::Sample&) = nullptr;
};

}  // namespace hakmem::test
