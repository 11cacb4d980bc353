// Units and bit arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem {

inline constexpr size_t kKiB = size_t{1} << 10;
inline constexpr size_t kMiB = size_t{1} << 20;
inline constexpr size_t kGiB = size_t{1} << 30;

inline constexpr size_t kPageBytes = 4 * kKiB;

constexpr bool is_power_of_two(size_t value) { return value != 0 && (value & (value - 1)) == 0; }

// `alignment` is a power of two; the sum must not overflow.
constexpr uintptr_t align_up(uintptr_t value, size_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }
constexpr uintptr_t align_down(uintptr_t value, size_t alignment) { return value & ~(alignment - 1); }

// Index of the highest set bit; `value` is not 0.
constexpr uint32_t log2_floor(uint64_t value) { return 63 - static_cast<uint32_t>(__builtin_clzll(value)); }

// `count` ones from bit `first` on, up to 64.
constexpr uint64_t bit_run(uint32_t first, uint32_t count) {
  return ((count < 64 ? uint64_t{1} << count : 0) - 1) << first;
}

// Mask of the bits at which a run of `count` ones starts in `bits`.
constexpr uint64_t run_starts(uint64_t bits, uint32_t count) {
  // Doubling: after each step a bit is set where `length` ones begin.
  uint32_t length = 1;
  while (length * 2 <= count) {
    bits &= bits >> length;
    length *= 2;
  }
  return count == length ? bits : bits & (bits >> (count - length));
}

// Bit 0 and each `step`-th one after it; a power of two up to 64.
constexpr uint64_t every_bit(uint32_t step) { return ~uint64_t{0} / bit_run(0, step); }

// Length of the longest run of ones.
constexpr uint32_t longest_run(uint64_t bits) {
  if (bits == 0) return 0;
  if (bits == ~uint64_t{0}) return 64;
  // Doubling as above for as long as there are such runs, and then longer by the largest halves that there are.
  uint64_t starts[6]{bits};  // of runs of 1, 2, 4, ..., 32
  uint32_t level = 0;
  while (uint64_t longer = starts[level] & (starts[level] >> (1u << level))) starts[++level] = longer;
  uint64_t longest = starts[level];
  uint32_t length = 1u << level;
  while (level-- > 0) {
    uint64_t longer = longest & (starts[level] >> length);
    if (longer == 0) continue;
    longest = longer;
    length += 1u << level;
  }
  return length;
}

static_assert(run_starts(0b1110111, 3) == 0b0010001);
static_assert(every_bit(1) == ~uint64_t{0} && every_bit(4) == 0x1111111111111111 && every_bit(64) == 1);
static_assert(longest_run(0b1110111) == 3 && longest_run(~uint64_t{0}) == 64);
static_assert(bit_run(0, 64) == ~uint64_t{0} && bit_run(4, 2) == 0x30);

}  // namespace hakmem
