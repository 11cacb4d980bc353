// How many objects a sample stands for.
#pragma once

#include <cstdint>

namespace hakmem::metrics {

// Numbers of objects are stored in this many parts of one: a sample stands for
// 1 / (1 - exp(-drawn / interval)) of them.
inline constexpr uint64_t kPartsOfObject = 1 << 16;

// The number of objects, in parts, that a sample stands for (Sample::drawn). Without libm.
inline uint64_t sample_weight(uint64_t drawn_bytes, uint64_t interval) {
  double x = interval == 0 ? 64 : static_cast<double>(drawn_bytes) / static_cast<double>(interval);
  if (x >= 32) return kPartsOfObject;
  int halvings = 0;
  for (; x > 0.25; ++halvings) x /= 2;
  // 1 - exp(-x) by its series, and 1 - exp(-2x) = p * (2 - p).
  double p = x * (1 - x * (1.0 / 2) * (1 - x * (1.0 / 3) * (1 - x * (1.0 / 4) * (1 - x * (1.0 / 5) * (1 - x / 6)))));
  for (; halvings > 0; --halvings) p *= 2 - p;
  double parts = static_cast<double>(kPartsOfObject) / p;
  auto whole = static_cast<uint64_t>(parts);
  return parts - static_cast<double>(whole) < 0.5 ? whole : whole + 1;
}

}  // namespace hakmem::metrics
