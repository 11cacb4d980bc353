#include "allocator/page_arena/purge_policy.h"

#include <gtest/gtest.h>

#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

constexpr size_t kLeast = PurgePolicy::kMinHoldBack;

TEST(PurgePolicy, HoldsBack128MiBOrATenth) {
  PurgePolicy policy;
  EXPECT_EQ(kLeast, 128 * kMiB);
  EXPECT_EQ(policy.excess(kLeast, 0), 0u);
  EXPECT_GT(policy.excess(kLeast + 1, 0), 0u);
  EXPECT_EQ(policy.excess(200 * kMiB, 2 * kGiB), 0u);
  EXPECT_GT(policy.excess(208 * kMiB, 2 * kGiB), 0u);
}

TEST(PurgePolicy, OnePurgeIsBounded) {
  PurgePolicy policy;
  EXPECT_EQ(policy.excess(kGiB, 0), 16 * kMiB);
  EXPECT_GE(policy.surplus(kGiB, 0), kGiB - kLeast);  // which is not all that there is
  size_t little = policy.excess(kLeast + kMiB, 0);
  EXPECT_GE(little, kMiB);
  EXPECT_LE(little, 3 * kMiB);
}

TEST(PurgePolicy, HoldsBackMoreWhilePurgedMemoryIsTakenAgain) {
  PurgePolicy policy;
  EXPECT_GT(policy.excess(kLeast + 28 * kMiB, 0), 0u);
  policy.taken_again(40 * kMiB, 100 * kMiB);
  EXPECT_EQ(policy.excess(kLeast + 28 * kMiB, 0), 0u);
  policy.taken_again(100 * kGiB, 100 * kMiB);  // bounded by what is used: half of it and a purge
  EXPECT_EQ(policy.excess(kLeast + (50 + 16) * kMiB, 0), 0u);
  EXPECT_GT(policy.excess(kLeast + (50 + 16) * kMiB + 1, 0), 0u);
  // And less as time passes: ten seconds leave about a quarter of it.
  for (int second = 0; second < 10; ++second) policy.decay(0);
  EXPECT_GT(policy.excess(kLeast + 20 * kMiB, 0), 0u);
  EXPECT_EQ(policy.excess(kLeast + 14 * kMiB, 0), 0u);
}

TEST(PurgePolicy, TheBoundOfChurnIsAShareOfWhatIsUsed) {
  PurgePolicy policy;
  policy.taken_again(100 * kGiB, 400 * kMiB);
  EXPECT_EQ(policy.surplus(kLeast + (200 + 16) * kMiB, 0), 0u);
  EXPECT_GT(policy.surplus(kLeast + (200 + 16) * kMiB + 1, 0), 0u);
}

TEST(PurgePolicy, HoldsBackAnEighthOfALimitAtMost) {
  PurgePolicy policy;
  policy.taken_again(100 * kGiB, 400 * kMiB);
  PurgePolicy::limit_memory(256 * kMiB);
  EXPECT_EQ(policy.hold_back(150 * kMiB), 32 * kMiB);
  EXPECT_EQ(policy.surplus(32 * kMiB, 150 * kMiB), 0u);
  EXPECT_GT(policy.surplus(32 * kMiB + 1, 150 * kMiB), 0u);
  PurgePolicy::limit_memory(64 * kGiB);  // as if there were none
  EXPECT_EQ(policy.hold_back(400 * kMiB), kLeast + (200 + 16) * kMiB);
  PurgePolicy::limit_memory(SIZE_MAX);
}

size_t retained_after(int seconds, size_t retained) {
  PurgePolicy policy;
  for (int second = 0; second < seconds; ++second) {
    size_t part = policy.decay(retained);
    EXPECT_GT(part, 0u);
    retained -= part;
  }
  return retained;
}

TEST(PurgePolicy, DecayGivesBackMostOfTheHoldBackInSomeSecondsAndHalfOfTheRestInTen) {
  EXPECT_EQ(PurgePolicy().decay(0), 0u);
  EXPECT_LT(retained_after(12, kLeast), 44 * kMiB);
  EXPECT_GT(retained_after(12, kLeast), 32 * kMiB);
  EXPECT_LT(retained_after(11, 32 * kMiB), 17 * kMiB);
  EXPECT_GT(retained_after(11, 32 * kMiB), 14 * kMiB);
  EXPECT_LE(PurgePolicy().decay(100 * kGiB), 16 * kMiB);  // bounded as well
}

TEST(DecayClock, TellsOneThreadASecond) {
  DecayClock clock;
  uint64_t now = 5'000'000;
  EXPECT_FALSE(clock.is_due(now));  // it starts
  EXPECT_FALSE(clock.is_due(now + 999));
  EXPECT_TRUE(clock.is_due(now + 1000));
  EXPECT_FALSE(clock.is_due(now + 1000));
  EXPECT_FALSE(clock.is_due(now + 1999));
  std::atomic<uint32_t> told{0};
  test::run_threads(4, [&](uint32_t) {
    for (uint64_t i = 0; i < 10000; ++i) told.fetch_add(clock.is_due(now + 2000 + i) ? 1 : 0);
  });
  // The calls span ten seconds; threads that lag behind show older times.
  EXPECT_GE(told.load(), 1u);
  EXPECT_LE(told.load(), 10u);
}

}  // namespace
}  // namespace hakmem
