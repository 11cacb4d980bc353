// How many samples a second a process takes at most.
#pragma once

#include <cstdint>

namespace hakmem::telemetry {

// A sample costs some 2,000 instructions, with its stack. Where a program allocates gigabytes a second, more of them
// tell nothing new: then the interval between two is doubled, as often as it takes. By one thread at a time.
class SampleRate {
 public:
  static constexpr uint64_t kMost = 2000;   // a second: beyond, the interval becomes longer
  static constexpr uint64_t kFewest = 500;  // below, shorter again
  static constexpr uint32_t kMaxDoublings = 10;

  // A sample has come at `now`, in nanoseconds: how often the interval is doubled from here on, `doublings` now.
  uint32_t after_sample(uint64_t now, uint32_t doublings) {
    uint64_t took = now - begin_;
    if (++samples_ < kWindow && took < kSecond / 2) return doublings;
    for (; doublings < kMaxDoublings && took < samples_ * kSecond / kMost; took = 2 * took + 1) ++doublings;
    for (; doublings > 0 && took > samples_ * kSecond / kFewest; took /= 2) --doublings;
    samples_ = 0;
    begin_ = now;
    return doublings;
  }

 private:
  static constexpr uint64_t kSecond = 1'000'000'000;
  static constexpr uint64_t kWindow = 256;  // samples, or half a second

  uint64_t begin_ = 0;
  uint64_t samples_ = 0;
};

}  // namespace hakmem::telemetry
