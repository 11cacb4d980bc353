#include "allocator/page_arena/purge_policy.h"

#include <gtest/gtest.h>

namespace hakmem {
namespace {

TEST(PurgePolicy, HoldsBack32MiBOrATenth) {
  PurgePolicy policy;
  EXPECT_EQ(policy.excess(32 * kMiB, 0), 0u);
  EXPECT_GT(policy.excess(32 * kMiB + 1, 0), 0u);
  EXPECT_EQ(policy.excess(100 * kMiB, kGiB), 0u);
  EXPECT_GT(policy.excess(104 * kMiB, kGiB), 0u);
}

TEST(PurgePolicy, OnePurgeIsBounded) {
  PurgePolicy policy;
  EXPECT_EQ(policy.excess(kGiB, 0), 16 * kMiB);
  size_t little = policy.excess(33 * kMiB, 0);
  EXPECT_GE(little, kMiB);
  EXPECT_LE(little, 3 * kMiB);
}

TEST(PurgePolicy, HoldsBackMoreWhilePurgedMemoryIsTakenAgain) {
  PurgePolicy policy;
  policy.excess(0, 200 * kMiB);  // at its peak, 200 MiB were used
  EXPECT_GT(policy.excess(60 * kMiB, 0), 0u);
  policy.taken_again(40 * kMiB);
  EXPECT_EQ(policy.excess(60 * kMiB, 0), 0u);
  policy.taken_again(100 * kGiB);  // never more than was ever used
  EXPECT_EQ(policy.excess(232 * kMiB, 0), 0u);
  EXPECT_GT(policy.excess(234 * kMiB, 0), 0u);
  // And less as time passes: 16 decays leave 36 % of it.
  for (uint64_t second = 1; second <= 17; ++second) policy.decay(second * 1000, 0);
  EXPECT_GT(policy.excess(120 * kMiB, 0), 0u);
  EXPECT_EQ(policy.excess(100 * kMiB, 0), 0u);
}

TEST(PurgePolicy, DecayGivesBackHalfInTenSeconds) {
  PurgePolicy policy;
  uint64_t now = 5'000'000;
  EXPECT_TRUE(policy.decay_is_due(now));
  EXPECT_EQ(policy.decay(now, 100 * kMiB), 0u);  // the clock starts
  EXPECT_FALSE(policy.decay_is_due(now + 999));
  EXPECT_EQ(policy.decay(now + 999, 100 * kMiB), 0u);
  size_t retained = 100 * kMiB;
  for (int second = 1; second <= 11; ++second) {
    EXPECT_TRUE(policy.decay_is_due(now + 1000));
    size_t part = policy.decay(now += 1000, retained);
    EXPECT_GT(part, 0u);
    retained -= part;
  }
  EXPECT_LT(retained, 52 * kMiB);
  EXPECT_GT(retained, 45 * kMiB);
  EXPECT_LE(policy.decay(now + 1000, 100 * kGiB), 16 * kMiB);  // bounded as well
}

}  // namespace
}  // namespace hakmem
