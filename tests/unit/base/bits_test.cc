#include "allocator/base/bits.h"

#include <gtest/gtest.h>

#include <random>

namespace hakmem {
namespace {

TEST(Bits, PowerOfTwo) {
  EXPECT_FALSE(is_power_of_two(0));
  for (uint32_t shift = 0; shift < 64; ++shift) {
    size_t power = size_t{1} << shift;
    EXPECT_TRUE(is_power_of_two(power));
    EXPECT_EQ(is_power_of_two(power + 1), shift == 0);
    EXPECT_EQ(log2_floor(power), shift);
    EXPECT_EQ(log2_floor(power | 1), shift);
  }
}

TEST(Bits, Align) {
  for (size_t alignment : {size_t{1}, size_t{16}, size_t{4096}, kGiB})
    for (uintptr_t value : {uintptr_t{0}, uintptr_t{1}, uintptr_t{15}, uintptr_t{4096}, uintptr_t{123456789012}}) {
      uintptr_t up = align_up(value, alignment);
      uintptr_t down = align_down(value, alignment);
      EXPECT_EQ(up % alignment, 0u);
      EXPECT_EQ(down % alignment, 0u);
      EXPECT_TRUE(down <= value && value <= up);
      EXPECT_TRUE(value - down < alignment && up - value < alignment);
    }
}

TEST(Bits, BitRun) {
  for (uint32_t count = 1; count <= 64; ++count)
    for (uint32_t first = 0; first + count <= 64; ++first) {
      uint64_t run = bit_run(first, count);
      EXPECT_EQ(static_cast<uint32_t>(__builtin_popcountll(run)), count);
      EXPECT_EQ(static_cast<uint32_t>(__builtin_ctzll(run)), first);
      EXPECT_EQ(longest_run(run), count);
    }
}

TEST(Bits, EveryBit) {
  for (uint32_t step = 1; step <= 64; step *= 2)
    for (uint32_t bit = 0; bit < 64; ++bit) EXPECT_EQ(every_bit(step) >> bit & 1, bit % step == 0);
}

uint64_t slow_run_starts(uint64_t bits, uint32_t count) {
  uint64_t starts = 0;
  for (uint32_t first = 0; first + count <= 64; ++first)
    if ((bits & bit_run(first, count)) == bit_run(first, count)) starts |= uint64_t{1} << first;
  return starts;
}

uint32_t slow_longest_run(uint64_t bits) {
  uint32_t longest = 0, length = 0;
  for (uint32_t i = 0; i < 64; ++i) {
    length = bits >> i & 1 ? length + 1 : 0;
    if (length > longest) longest = length;
  }
  return longest;
}

TEST(Bits, RunsAgreeWithASlowSearch) {
  std::mt19937_64 random(1);
  for (uint32_t round = 0; round < 3000; ++round) {
    // Dense, sparse and even words: long runs are rare otherwise.
    uint64_t bits = random();
    if (round % 3 == 1) bits |= random() | random();
    if (round % 3 == 2) bits &= random();
    if (round == 0) bits = ~uint64_t{0};
    if (round == 1) bits = 0;
    if (round % 8 == 3) bits = ~(uint64_t{1} << random() % 64 | uint64_t{1} << random() % 64);
    ASSERT_EQ(longest_run(bits), slow_longest_run(bits)) << std::hex << bits;
    for (uint32_t count = 1; count <= 64; ++count)
      ASSERT_EQ(run_starts(bits, count), slow_run_starts(bits, count)) << std::hex << bits << " " << count;
  }
}

}  // namespace
}  // namespace hakmem
