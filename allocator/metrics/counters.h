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
#include "allocator/base/probe.h"
#include "allocator/metrics/catalogue.h"
#include "allocator/platform/clock.h"

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

// The memory orders of a sink, so that tests/model can weaken each.
struct SinkOrders {
  std::memory_order read_mask = std::memory_order_acquire;    // pairs with grow: the larger mapping is seen then
  std::memory_order read_shards = std::memory_order_acquire;  // pairs with move: the mapping is there
  std::memory_order move = std::memory_order_release;
  std::memory_order grow = std::memory_order_release;
};
inline constexpr SinkOrders kSinkOrders{};

// What threads do to a sink and to what it points to. `Sink` has the atomics of CounterSink.
template <class Sink, const SinkOrders& orders = kSinkOrders>
struct SinkWords {
  // Where `shard` of `shard_slots` slots starts now.
  static auto slots(const Sink& sink, uint32_t shard, uint32_t shard_slots) {
    // The mask is read first: a sink with many shards never has fewer later.
    uint32_t mask = sink.shard_mask.load(orders.read_mask);
    return sink.shards.load(orders.read_shards) + (shard & mask) * shard_slots;
  }
  // To shards that hold what was counted before, or that drain() will add it to.
  template <class Slots>
  static void move(Sink& sink, Slots shards) {
    sink.shards.store(shards, orders.move);
  }
  // To a mapping that begins with the same shards, and has `count` of them.
  template <class Slots>
  static void grow(Sink& sink, Slots shards, uint32_t count) {
    // In this order: a thread that sees the larger mask must see the larger mapping.
    move(sink, shards);
    sink.shard_mask.store(count - 1, orders.grow);
  }
  // Moves on what was counted in `from`; others may count there meanwhile.
  template <class Slot>
  static void drain(Slot* from, Slot* to, uint32_t count) {
    for (uint32_t slot = 0; slot < count; ++slot) {
      if (from[slot].load(std::memory_order_relaxed) == 0) continue;
      to[slot].fetch_add(from[slot].exchange(0, std::memory_order_relaxed), std::memory_order_relaxed);
    }
  }
};

// The slots that a thread counts into now, for several adds in a row: a count
// is then a single instruction. Not to be kept.
inline Slot* shard_slots(uint32_t shard) { return SinkWords<CounterSink>::slots(counter_sink, shard, kShardSlots); }

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
  // Whether this is one of the thread's slow calls that are timed.
  bool is_slow_call_timed() { return ++slow_calls_ % kSlowCallInterval == 0; }

 private:
  static constexpr uint32_t kSlowCallInterval = 16;

  Slot* slots_ = initial_shard;
  uint32_t slow_calls_ = 0;
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

// When a purge last ended, by CLOCK_MONOTONIC in nanoseconds; 0: never. Any thread.
HAKMEM_HIDDEN extern std::atomic<uint64_t> last_purge;

// One purge run that gave back so many bytes.
inline void count_purge(uint32_t shard, uint64_t bytes) {
  if constexpr (kBuild.stats) {
    count<Metric::kPurgeRuns>(shard);
    count<Metric::kPurgedBytes>(shard, bytes);
    last_purge.store(monotonic_nanoseconds(), std::memory_order_relaxed);
    HAKMEM_PROBE1(0, hakmem, purge, bytes);
  }
}

// Adds one time to a histogram.
template <Metric metric>
inline void add_time(Slot* slots, uint32_t label, uint64_t nanoseconds) {
  static_assert(shape_of(metric).kind == Kind::Histogram);
  add<metric>(slots, label * kHistogramSlots + histogram_bucket(nanoseconds, scale_of(metric)), 1);
  add<metric>(slots, label * kHistogramSlots + kHistogramBuckets, nanoseconds);
}

template <Metric metric>
inline void observe_time(uint32_t shard, uint32_t label, uint64_t nanoseconds) {
  if constexpr (kBuild.stats) add_time<metric>(shard_slots(shard), label, nanoseconds);
}

}  // namespace hakmem::metrics
