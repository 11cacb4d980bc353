#include "allocator/metrics/catalogue.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace hakmem::metrics {
namespace {

constexpr uint32_t kMetrics = kCountOf<Metric>;

TEST(Catalogue, SlotsOfAStorageDoNotOverlapAndLeaveNoGap) {
  for (Storage storage : {Storage::Shard, Storage::Publish, Storage::Serve}) {
    std::vector<int> owner(slot_count(storage), -1);
    for (uint32_t i = 0; i < kMetrics; ++i) {
      auto metric = static_cast<Metric>(i);
      if (shape_of(metric).storage != storage) continue;
      EXPECT_GT(shape_of(metric).slots(), 0u) << kTexts[i].name;
      for (uint32_t slot = 0; slot < shape_of(metric).slots(); ++slot) {
        uint32_t index = first_slot(metric) + slot;
        ASSERT_LT(index, owner.size()) << kTexts[i].name;
        ASSERT_EQ(owner[index], -1) << kTexts[i].name << " overlaps another metric";
        owner[index] = static_cast<int>(i);
      }
    }
    for (int metric : owner) EXPECT_NE(metric, -1);
  }
}

TEST(Catalogue, SlotsFollowTheLabels) {
  EXPECT_EQ(shape_of(Metric::kAllocations).slots(), kSizeClassCount);
  EXPECT_EQ(shape_of(Metric::kRefills).slots(), kSizeClassCount * 5);
  EXPECT_EQ(shape_of(Metric::kSamples).slots(), 1u);
  EXPECT_EQ(shape_of(Metric::kSuperslabRefillTime).slots(), 4 * (kHistogramBuckets + 1));
  EXPECT_EQ(shape_of(Metric::kSlabs).slots(), kSizeClassCount * 8);
  EXPECT_EQ(kFirstSlot<Metric::kAllocations>, 0u);
  EXPECT_EQ(kFirstSlot<Metric::kRefills>, kSizeClassCount);
  EXPECT_EQ(kFirstSlot<Metric::kRefillObjects>, kSizeClassCount * (1 + 5));
}

TEST(Catalogue, NamesAreUniqueAndTyped) {
  std::set<std::string> names;
  for (uint32_t i = 0; i < kMetrics; ++i) {
    std::string name = kTexts[i].name;
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_TRUE(name.starts_with("hakmem_")) << name;
    EXPECT_EQ(name.ends_with("_total"), kShapes[i].kind == Kind::Counter) << name;
    EXPECT_FALSE(std::string(kTexts[i].help).empty());
    EXPECT_EQ(kTexts[i].help[std::string(kTexts[i].help).size() - 1], '.') << name;
    // Only counters and histograms are added to in shards.
    if (kShapes[i].storage == Storage::Shard) {
      EXPECT_NE(kShapes[i].kind, Kind::Gauge) << name;
    }
  }
}

TEST(Catalogue, HistogramBuckets) {
  for (HistogramScale scale : {kCallTimes, kLifetimes}) {
    // Bucket i holds the times above the bound of i - 1 and up to its own.
    EXPECT_EQ(histogram_bucket(0, scale), 0u);
    EXPECT_EQ(histogram_bucket(1, scale), 0u);
    for (uint32_t bucket = 0; bucket + 1 < kHistogramBuckets; ++bucket) {
      uint64_t bound = scale.bound(bucket);
      EXPECT_EQ(histogram_bucket(bound, scale), bucket);
      EXPECT_EQ(histogram_bucket(bound + 1, scale), bucket + 1);
      EXPECT_EQ(histogram_bucket(bound - 1, scale), bucket);
    }
    EXPECT_EQ(histogram_bucket(UINT64_MAX, scale), kHistogramBuckets - 1);
  }
}

}  // namespace
}  // namespace hakmem::metrics
