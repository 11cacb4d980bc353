// Random numbers: secrets from the kernel, and a small generator for sampling.
#pragma once

#include <cstdint>

namespace hakmem {

// 64 unpredictable bits from getrandom(2); from the clock and ASLR where the
// kernel refuses. Keeps errno.
uint64_t random_secret();

// xorshift64*: one per thread, seeded per thread, never zero.
class RandomGenerator {
 public:
  constexpr explicit RandomGenerator(uint64_t seed) : state_(seed | 1) {}
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  // Below `bound`, which is not 0.
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 32) * bound >> 32); }

 private:
  uint64_t state_;
};

}  // namespace hakmem
