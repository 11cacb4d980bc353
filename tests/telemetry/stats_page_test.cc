// The layout of the stats page and the arithmetic of its slots.
#include "telemetry/stats_page.h"

#include <gtest/gtest.h>

#include <set>

#include "allocator/metrics/counters.h"

namespace hakmem::telemetry {
namespace {

using metrics::Metric;

TEST(StatsPage, FitsItsBounds) {
  EXPECT_LE(page_bytes(kFirstShards), 48u * 1024);
  EXPECT_LE(page_bytes(kMaxShards), 512u * 1024);
  EXPECT_EQ(page_bytes(1) % 4096, 0u);
  EXPECT_GE(kShardsOffset, kPublishOffset + metrics::kPublishSlots * sizeof(Slot));
}

TEST(StatsPage, SlotsOfAStorageFollowEachOtherWithoutGaps) {
  for (auto storage : {metrics::Storage::Shard, metrics::Storage::Publish}) {
    uint32_t next = 0;
    for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
      if (metrics::kShapes[i].storage != storage) continue;
      EXPECT_EQ(metrics::first_slot(static_cast<Metric>(i)), next) << metrics::kTexts[i].name;
      next += metrics::kShapes[i].slots();
    }
    EXPECT_EQ(next, metrics::slot_count(storage));
  }
}

TEST(StatsPage, HistogramBucketsAreUpperBounds) {
  EXPECT_EQ(metrics::histogram_bucket(0), 0u);
  for (uint32_t bucket = 0; bucket + 1 < metrics::kHistogramBuckets; ++bucket) {
    uint64_t bound = metrics::kCallTimes.bound(bucket);
    EXPECT_EQ(metrics::histogram_bucket(bound), bucket);
    EXPECT_EQ(metrics::histogram_bucket(bound + 1), bucket + 1);
  }
  EXPECT_EQ(metrics::histogram_bucket(~uint64_t{0}), metrics::kHistogramBuckets - 1);
}

TEST(StatsPage, ObservedTimesGoToTheirBucketAndTheSum) {
  constexpr uint32_t kStep = 2;
  uint32_t first = metrics::kFirstSlot<Metric::kSuperslabRefillTime> + kStep * metrics::kHistogramSlots;
  metrics::observe_time<Metric::kSuperslabRefillTime>(0, kStep, 100);
  metrics::observe_time<Metric::kSuperslabRefillTime>(0, kStep, 128);
  metrics::observe_time<Metric::kSuperslabRefillTime>(0, kStep, 1'000'000'000);
  EXPECT_EQ(metrics::initial_shard[first + 1].load(), 2u);
  EXPECT_EQ(metrics::initial_shard[first + metrics::kHistogramBuckets - 1].load(), 1u);
  EXPECT_EQ(metrics::initial_shard[first + metrics::kHistogramBuckets].load(), 1'000'000'228u);
}

TEST(StatsPage, NamesKeepTheRulesOfPrometheus) {
  std::set<std::string> names;
  for (size_t i = 0; i < metrics::kTexts.size(); ++i) {
    std::string name = metrics::kTexts[i].name;
    EXPECT_TRUE(name.starts_with("hakmem_")) << name;
    EXPECT_TRUE(names.insert(name).second) << name << " is there twice";
    EXPECT_EQ(name.ends_with("_total"), metrics::kShapes[i].kind == metrics::Kind::Counter) << name;
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string::npos) << name;
  }
}

TEST(StatsPage, AnOrdinaryChangeOfARowChangesTheHash) {
  EXPECT_NE(hash_text(1, "hakmem_a"), hash_text(1, "hakmem_b"));
  EXPECT_NE(hash_text(hash_text(1, "ab"), "c"), hash_text(hash_text(1, "a"), "bc"));
  EXPECT_NE(hash_number(1, 2), hash_number(1, 3));
}

}  // namespace
}  // namespace hakmem::telemetry
