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
