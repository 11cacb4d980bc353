// Random numbers of a test: the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>

namespace hakmem::test {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t next() { return engine_(); }
  // 0 to bound - 1.
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(engine_() % bound); }
  // 1 to 2^log2_max, each doubling equally likely.
  size_t log_uniform(uint32_t log2_max) {
    uint32_t log2 = below(log2_max);
    return (size_t{1} << log2) + 1 + engine_() % (size_t{1} << log2) - (log2 == 0 ? below(2) : 0);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace hakmem::test
