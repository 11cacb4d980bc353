#include "allocator/metrics/counters.h"

#include <gtest/gtest.h>

#include <memory>

#include "allocator/metrics/step_timer.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/threads.h"

namespace hakmem::metrics {
namespace {

using test::rounds;

// Many shards for the time of a test, as the stats page brings them.
class Shards {
 public:
  explicit Shards(uint32_t count) : slots_(new Slot[count * kShardSlots]()) {
    if constexpr (kBuild.stats) {
      saved_shards_ = counter_sink.shards.load();
      saved_mask_ = counter_sink.shard_mask.load();
      // As telemetry does it: the place first, then how much room there is.
      counter_sink.shards.store(slots_.get(), std::memory_order_release);
      counter_sink.shard_mask.store(count - 1, std::memory_order_release);
    }
  }
  ~Shards() {
    if constexpr (kBuild.stats) {
      counter_sink.shard_mask.store(saved_mask_);
      counter_sink.shards.store(saved_shards_);
    }
  }
  Shards(const Shards&) = delete;
  Shards& operator=(const Shards&) = delete;

  uint64_t at(uint32_t shard, uint32_t slot) const { return slots_[shard * kShardSlots + slot].load(); }
  uint64_t sum() const {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < kShardSlots; ++i) sum += at(0, i);
    return sum;
  }

 private:
  std::unique_ptr<Slot[]> slots_;
  Slot* saved_shards_ = nullptr;
  uint32_t saved_mask_ = 0;
};

TEST(Counters, EachCountGoesToItsSlotAndShard) {
  if (!kBuild.stats) GTEST_SKIP() << "this build counts nothing";
  Shards shards(4);
  count<Metric::kSamples>(0);
  count<Metric::kSamples>(1, 10);
  count<Metric::kRemoteFrees>(5, 7);  // a number above the shards
  count<Metric::kCollectedObjects>(2, 17, uint64_t{3});
  count<Metric::kRefills>(3, 95, RefillSource::NewSuperslab, 1);
  EXPECT_EQ(shards.at(0, kFirstSlot<Metric::kSamples>), 1u);
  EXPECT_EQ(shards.at(1, kFirstSlot<Metric::kSamples>), 10u);
  EXPECT_EQ(shards.at(2, kFirstSlot<Metric::kCollectedObjects> + 17), 3u);
  EXPECT_EQ(shards.at(3, kFirstSlot<Metric::kRefills> + 95 * 5 + 4), 1u);
  EXPECT_EQ(test::counter<Metric::kSamples>(), 11u);
  EXPECT_EQ(shards.at(0, kFirstSlot<Metric::kRemoteFrees>), 7u);
  EXPECT_EQ(shards.sum(), 8u);  // nothing else was touched in shard 0
}

TEST(Counters, AShardThatIsOneThreadsOwnNeverWasOrIsAnothers) {
  for (uint32_t shards = 1; shards <= kMaxShards; shards *= 2)
    for (uint32_t fewer = 1; fewer <= shards; fewer *= 2)
      for (uint32_t own = 0; own < 200; ++own) {
        if (!is_own_shard(own, shards - 1)) continue;
        for (uint32_t other = 0; other < 200; ++other) {
          if (other == own) continue;
          ASSERT_NE(shard_of(other, shards - 1), shard_of(own, shards - 1)) << own << " and " << other;
          // Who has not seen yet that there are more counts where it did before.
          ASSERT_NE(shard_of(other, fewer - 1), shard_of(own, shards - 1)) << own << " and " << other;
        }
      }
  for (uint32_t number = 0; number < 200; ++number)
    for (uint32_t shards = 1; shards <= kMaxShards; shards *= 2) ASSERT_LT(shard_of(number, shards - 1), shards);
  EXPECT_TRUE(is_own_shard(1, 1));
  EXPECT_FALSE(is_own_shard(1, 0));
  EXPECT_FALSE(is_own_shard(0, kMaxShards - 1));
}

TEST(Counters, TimesGoToTheirBucketAndToTheSum) {
  if (!kBuild.stats) GTEST_SKIP() << "this build counts nothing";
  Shards shards(1);
  observe_time<Metric::kSuperslabRefillTime>(0, static_cast<uint32_t>(RefillStep::Map), 100);
  observe_time<Metric::kSuperslabRefillTime>(0, static_cast<uint32_t>(RefillStep::Map), 128);
  observe_time<Metric::kSuperslabRefillTime>(0, static_cast<uint32_t>(RefillStep::Carve), 1'000'000'000);
  uint32_t map = kFirstSlot<Metric::kSuperslabRefillTime> + kHistogramSlots;
  uint32_t carve = kFirstSlot<Metric::kSuperslabRefillTime> + 3 * kHistogramSlots;
  EXPECT_EQ(shards.at(0, map + 1), 2u);
  EXPECT_EQ(shards.at(0, map + kHistogramBuckets), 228u);
  EXPECT_EQ(shards.at(0, carve + kHistogramBuckets - 1), 1u);
  EXPECT_EQ(shards.at(0, carve + kHistogramBuckets), 1'000'000'000u);
  EXPECT_EQ(shards.sum(), 3 + 228 + 1'000'000'000u);
}

TEST(Counters, StepTimerCountsEachStepOnce) {
  if (!kBuild.stats) GTEST_SKIP() << "this build counts nothing";
  Shards shards(1);
  StepTimer timer(0);
  timer.finish(RefillStep::Scan);
  timer.finish(RefillStep::Metadata);
  for (RefillStep step : {RefillStep::Scan, RefillStep::Map, RefillStep::Metadata, RefillStep::Carve}) {
    uint32_t first = kFirstSlot<Metric::kSuperslabRefillTime> + static_cast<uint32_t>(step) * kHistogramSlots;
    uint64_t times = 0;
    for (uint32_t bucket = 0; bucket < kHistogramBuckets; ++bucket) times += shards.at(0, first + bucket);
    EXPECT_EQ(times, step == RefillStep::Scan || step == RefillStep::Metadata ? 1u : 0u);
  }
}

TEST(Counters, NothingIsLostWhileTheSinkMoves) {
  if (!kBuild.stats) GTEST_SKIP() << "this build counts nothing";
  constexpr uint32_t kThreads = 4;
  const uint32_t adds = rounds(100000);
  Shards first(1), second(8);  // `second` is in place; the counting threads see both
  std::atomic<uint32_t> counting{kThreads};
  std::unique_ptr<Slot[]> third(new Slot[16 * kShardSlots]());
  test::run_threads(kThreads + 1, [&](uint32_t thread) {
    if (thread == kThreads) {
      while (counting.load() == kThreads) std::this_thread::yield();
      counter_sink.shards.store(third.get(), std::memory_order_release);
      counter_sink.shard_mask.store(15, std::memory_order_release);
      return;
    }
    for (uint32_t i = 0; i < adds; ++i) {
      count<Metric::kRemoteFrees>(1 + thread * 3);
      if (i == 100) counting.fetch_sub(1);
    }
  });
  uint64_t sum = 0;
  for (uint32_t shard = 0; shard < 8; ++shard) sum += second.at(shard, kFirstSlot<Metric::kRemoteFrees>);
  for (uint32_t shard = 0; shard < 16; ++shard)
    sum += third[shard * kShardSlots + kFirstSlot<Metric::kRemoteFrees>].load();
  EXPECT_EQ(sum, uint64_t{kThreads} * adds);
  EXPECT_EQ(first.sum(), 0u);
}

}  // namespace
}  // namespace hakmem::metrics
