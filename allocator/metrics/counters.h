// Counting on cold paths: a relaxed add into a shard of 64-bit slots.
//
// The shards start as one block of private memory; telemetry moves them into
// the stats page later (CounterSink). In the release build every call here is
// an empty inline function and counters.cc is not part of the library.
#pragma once

#include <atomic>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/build_profile.h"
#include "allocator/metrics/catalogue.h"

namespace hakmem::metrics {

using Slot = std::atomic<uint64_t>;

// Where counters go. Written by telemetry when the stats page is made or grows
// (release) and in a forked child; read by every counting thread (acquire,
// pairs with that release).
struct CounterSink {
  std::atomic<Slot*> shards;         // shard i starts at shards + i * kShardSlots
  std::atomic<uint32_t> shard_mask;  // number of shards - 1, a power of two less one; grows only
};

HAKMEM_HIDDEN extern CounterSink counter_sink;
// The shard of private memory that counters start in. Adds that raced with a
// move of the sink land here: the publisher moves them on with an exchange.
HAKMEM_HIDDEN extern Slot initial_shard[kShardSlots];

// The slots that a thread counts into now, for several adds in a row: a count
// is then a single instruction. Not to be kept.
inline Slot* shard_slots(uint32_t shard) {
  // The mask is read first: a sink with many shards never has fewer later.
  uint32_t mask = counter_sink.shard_mask.load(std::memory_order_acquire);
  return counter_sink.shards.load(std::memory_order_acquire) + (shard & mask) * kShardSlots;
}

template <Metric metric>
inline void add(Slot* slots, size_t index, uint64_t amount) {
  static_assert(shape_of(metric).storage == Storage::Shard);
  slots[kFirstSlot<metric> + index].fetch_add(amount, std::memory_order_relaxed);
}

// Where one thread counts: its shard, looked up now and then instead of at each
// count. What it adds to a place that the sink has left is not lost: the
// private shard is drained, and earlier mappings of the page stay. Empty in the
// release build.
template <bool enabled>
class ThreadCounters {
 public:
  void follow_sink(uint32_t shard) { slots_ = shard_slots(shard); }
  Slot* slots() const { return slots_; }
  template <Metric metric>
  void add(size_t index, uint64_t amount) const {
    metrics::add<metric>(slots_, index, amount);
  }

 private:
  Slot* slots_ = initial_shard;
};
template <>
class ThreadCounters<false> {
 public:
  void follow_sink(uint32_t) {}
  Slot* slots() const { return nullptr; }
  template <Metric metric>
  void add(size_t, uint64_t) const {}
};

// Adds `amount` to slot `index` of `metric`. Any thread; `shard` spreads
// threads over cache lines and may be any number.
template <Metric metric>
inline void count(uint32_t shard, uint32_t index, uint64_t amount) {
  if constexpr (kBuild.stats) {
    add<metric>(shard_slots(shard), index, amount);
  }
}

template <Metric metric>
inline void count(uint32_t shard, uint64_t amount = 1) {
  count<metric>(shard, 0, amount);
}

template <Metric metric>
inline void count(uint32_t shard, uint32_t size_class, RefillSource source, uint64_t amount) {
  count<metric>(shard, size_class * kCountOf<RefillSource> + static_cast<uint32_t>(source), amount);
}

// Adds one time to a histogram.
template <Metric metric>
inline void observe_time(uint32_t shard, uint32_t label, uint64_t nanoseconds) {
  if constexpr (kBuild.stats) {
    static_assert(shape_of(metric).kind == Kind::Histogram);
    Slot* slots = shard_slots(shard);
    add<metric>(slots, label * kHistogramSlots + histogram_bucket(nanoseconds), 1);
    add<metric>(slots, label * kHistogramSlots + kHistogramBuckets, nanoseconds);
  }
}

}  // namespace hakmem::metrics
