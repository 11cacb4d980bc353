// Counting on cold paths: an add into a shard of 64-bit slots, atomic where other threads add, too.
//
// The shards start as one block of private memory; telemetry moves them into
// the stats page later (CounterSink). In the release build every call here is
// an empty inline function and counters.cc is not part of the library.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "allocator/base/assert.h"
#include "allocator/base/build_profile.h"
#include "allocator/base/probe.h"
#include "allocator/metrics/catalogue.h"
#include "allocator/platform/clock.h"

namespace hakmem::metrics {

using Slot = std::atomic<uint64_t>;

// Which shard a thread counts into follows from its number, from 1 on. Those with the lowest
// numbers have one of their own, once there are so many: what adds there need not be atomic.
// All others share shard 0, and the last few where there are all.
inline constexpr uint32_t kOwnShards = 24;  // those from 1 on, below this
constexpr bool is_own_shard(uint32_t number, uint32_t mask) {
  return number != 0 && number < kOwnShards && number <= mask;
}
// What is shared is never another thread's own later, when there are more.
constexpr uint32_t shard_of(uint32_t number, uint32_t mask) {
  if (is_own_shard(number, mask)) return number;
  return mask == kMaxShards - 1 && number != 0 ? kOwnShards + number % (kMaxShards - kOwnShards) : 0;
}

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
  // Where the shard of the thread with that number starts now, of `shard_slots` slots, and whether it is its own.
  static auto place(const Sink& sink, uint32_t number, uint32_t shard_slots) {
    // The mask is read first: a sink with many shards never has fewer later.
    uint32_t mask = sink.shard_mask.load(orders.read_mask);
    auto slots = sink.shards.load(orders.read_shards) + shard_of(number, mask) * shard_slots;
    return std::pair(slots, is_own_shard(number, mask));
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

// A shard as one thread counts into it.
struct Shard {
  Slot* slots = initial_shard;
  bool is_own = false;

  template <Metric metric>
  HAKMEM_INLINE void add(size_t index, uint64_t amount) const {
    static_assert(shape_of(metric).storage == Storage::Shard && sizeof(Slot) == sizeof(uint64_t));
    Slot& slot = slots[kFirstSlot<metric> + index];
    // Where nobody else adds, one instruction, so that a signal handler, which may count as well, finds it done or
    // not begun; but not an atomic one, which waits until all earlier stores of the thread have reached the cache.
    if (is_own) [[likely]] {
      __asm__("addq %1, %0" : "+m"(reinterpret_cast<uint64_t&>(slot)) : "er"(amount));
    } else {
      slot.fetch_add(amount, std::memory_order_relaxed);
    }
  }
};

// That of the thread with the number, for several adds in a row. Not to be kept; 0 is anybody.
inline Shard shard_now(uint32_t number) {
  auto [slots, is_own] = SinkWords<CounterSink>::place(counter_sink, number, kShardSlots);
  return {slots, is_own};
}

// Where one thread counts: its shard, looked up now and then instead of at each
// count. What it adds to a place that the sink has left is not lost: the
// private shard is drained, and earlier mappings of the page stay. Empty in the
// release build.
template <bool enabled>
class ThreadCounters {
 public:
  void follow_sink(uint32_t number) { shard_ = shard_now(number); }
  Shard shard() const { return shard_; }
  template <Metric metric>
  void add(size_t index, uint64_t amount) const {
    shard_.add<metric>(index, amount);
  }
  // Of a metric without labels.
  template <Metric metric>
  void count(uint64_t amount = 1) const {
    add<metric>(0, amount);
  }
  // Whether this is one of the thread's slow calls that are timed.
  bool is_slow_call_timed() { return ++slow_calls_ % kSlowCallInterval == 0; }

 private:
  static constexpr uint32_t kSlowCallInterval = 16;

  Shard shard_;
  uint32_t slow_calls_ = 0;
};
template <>
class ThreadCounters<false> {
 public:
  void follow_sink(uint32_t) {}
  Shard shard() const { return {nullptr, false}; }
  template <Metric metric>
  void add(size_t, uint64_t) const {}
  template <Metric metric>
  void count(uint64_t = 1) const {}
};

// Adds `amount` to slot `index` of `metric`. Any thread; `shard` is its number, or 0.
template <Metric metric>
inline void count(uint32_t shard, uint32_t index, uint64_t amount) {
  if constexpr (kBuild.stats) {
    shard_now(shard).add<metric>(index, amount);
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
inline void add_time(Shard shard, uint32_t label, uint64_t nanoseconds) {
  static_assert(shape_of(metric).kind == Kind::Histogram);
  shard.add<metric>(label * kHistogramSlots + histogram_bucket(nanoseconds, scale_of(metric)), 1);
  shard.add<metric>(label * kHistogramSlots + kHistogramBuckets, nanoseconds);
}

template <Metric metric>
inline void observe_time(uint32_t shard, uint32_t label, uint64_t nanoseconds) {
  if constexpr (kBuild.stats) add_time<metric>(shard_now(shard), label, nanoseconds);
}

}  // namespace hakmem::metrics
