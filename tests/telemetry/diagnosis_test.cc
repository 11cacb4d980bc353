// Conditions of the findings, and what is "lately".
#include "telemetry/diagnosis.h"

#include <gtest/gtest.h>

namespace hakmem::telemetry {
namespace {

using metrics::Finding;

constexpr double kMiB = 1 << 20;

TEST(Diagnosis, NothingHoldsOfWhatWasNotMeasured) {
  for (uint32_t i = 0; i < metrics::kCountOf<Finding>; ++i)
    EXPECT_FALSE(holds(static_cast<Finding>(i), Facts{})) << metrics::kFindings[i].name;
}

// Each finding needs a size, which all have here, and a share of the whole.
Facts sizes(bool are_shares) {
  Facts facts;
  facts.heap = facts.process = (are_shares ? 150 : 10'000) * kMiB;
  facts.slab_free = facts.internal = facts.retained = facts.thread_cache = 100 * kMiB;
  facts.outside = facts.swapped = 100 * kMiB;
  facts.huge_pages = 300 * kMiB;  // more than the heap, where they inflate
  facts.span = 10;
  facts.purged = 0;
  facts.cgroup_limit = 1000 * kMiB;
  facts.cgroup_distance = (are_shares ? 50 : 150) * kMiB;
  facts.cpu = 10;
  facts.superslab_refill = are_shares ? 5 : 0.5;
  facts.remote_frees = 8'000'000;
  facts.allocations = are_shares ? 10'000'000 : 100'000'000;
  return facts;
}

TEST(Diagnosis, EachHoldsWhereASizeIsAShareToo) {
  for (uint32_t i = 0; i < metrics::kCountOf<Finding>; ++i)
    EXPECT_TRUE(holds(static_cast<Finding>(i), sizes(true))) << metrics::kFindings[i].name;
}

TEST(Diagnosis, NoneHoldsOfASizeThatIsNoShare) {
  for (uint32_t i = 0; i < metrics::kCountOf<Finding>; ++i)
    EXPECT_FALSE(holds(static_cast<Finding>(i), sizes(false))) << metrics::kFindings[i].name;
}

// No machine for tests has swap for sure.
TEST(Diagnosis, SwapHoldsAboveAShareAndASize) {
  Facts facts;
  facts.process = 200 * kMiB;
  facts.swapped = 20 * kMiB;
  EXPECT_TRUE(holds(Finding::kSwap, facts));
  facts.swapped = 10 * kMiB;
  EXPECT_FALSE(holds(Finding::kSwap, facts));
  facts.swapped = 20 * kMiB;
  facts.process = 2000 * kMiB;
  EXPECT_FALSE(holds(Finding::kSwap, facts));
}

TEST(Diagnosis, LatelyIsTheLastFiveToTenSeconds) {
  Window window;
  Facts facts;
  for (double second = 0; second <= 60; ++second) {
    window.look({second, 7 * second, 2 * second, second / 4, 1000 * second, 3000 * second}, &facts);
    if (second >= 10) {
      EXPECT_GE(facts.span, 5) << second;
    }
    EXPECT_LE(facts.span, 10) << second;
    EXPECT_EQ(facts.purged, 7 * facts.span);
    EXPECT_EQ(facts.cpu, 2 * facts.span);
    EXPECT_EQ(facts.superslab_refill, facts.span / 4);
    EXPECT_EQ(facts.remote_frees, 1000 * facts.span);
    EXPECT_EQ(facts.allocations, 3000 * facts.span);
  }
}

TEST(Diagnosis, TheFirstLookHasSeenNothing) {
  Window window;
  Facts facts;
  window.look({1000, 1, 2, 3, 4, 5}, &facts);
  EXPECT_EQ(facts.span, 0);
  EXPECT_EQ(facts.cpu, 0);
}

}  // namespace
}  // namespace hakmem::telemetry
