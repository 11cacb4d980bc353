#include "allocator/platform/random.h"

#include <errno.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/unit/support/older_kernel.h"

namespace hakmem {
namespace {

void expect_secrets_differ() {
  errno = 5;
  std::set<uint64_t> secrets;
  uint64_t ones = 0, zeroes = 0;
  for (int i = 0; i < 1000; ++i) {
    uint64_t secret = random_secret();
    secrets.insert(secret);
    ones |= secret;
    zeroes |= ~secret;
  }
  EXPECT_EQ(secrets.size(), 1000u);
  EXPECT_EQ(ones, UINT64_MAX);  // every bit takes both values
  EXPECT_EQ(zeroes, UINT64_MAX);
  EXPECT_EQ(errno, 5);
}

TEST(Random, SecretsDiffer) { expect_secrets_differ(); }

// A kernel that is still starting, or a sandbox.
TEST(Random, SecretsDifferWithoutRandomNumbersOfTheKernels) {
  test::without_calls({{SYS_getrandom, -1, 0, ENOSYS}}, expect_secrets_differ);
}

TEST(Random, GeneratorIsUniform) {
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{2}, UINT64_MAX}) {
    RandomGenerator random(seed);
    for (int i = 0; i < 16; ++i) random.next();  // small seeds need some rounds to spread
    constexpr int kDraws = 100000, kBuckets = 16;
    int high[kBuckets] = {}, low[kBuckets] = {};
    for (int i = 0; i < kDraws; ++i) {
      uint64_t value = random.next();
      ASSERT_NE(value, 0u);
      ++high[value >> 60];
      ++low[value & 15];
    }
    double expected = double{kDraws} / kBuckets;
    for (int i = 0; i < kBuckets; ++i) {
      EXPECT_NEAR(high[i], expected, 6 * std::sqrt(expected));
      EXPECT_NEAR(low[i], expected, 6 * std::sqrt(expected));
    }
  }
}

TEST(Random, GeneratorsWithOtherSeedsDiffer) {
  RandomGenerator first(2), second(4), same(2);
  EXPECT_NE(first.next(), second.next());
  RandomGenerator again(2);
  EXPECT_EQ(again.next(), same.next());
}

}  // namespace
}  // namespace hakmem
