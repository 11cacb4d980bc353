// Whether what a call site holds keeps growing, as a leak does and neither a cache nor
// a buffer that comes and goes.
//
// Time is cut into windows. Of each a site keeps its floor, the least that was live in
// it, so that what is freed within a window does not count, however much it is. A run
// is a row of windows in which the floor has not fallen; it ends when the floor falls,
// or when it has stood still for too long: for three windows, and a quarter of the time
// that it grew. A site is a suspect when the floor has risen often enough in its run,
// and by more than the samples' chance explains.
#pragma once

#include <cstdint>

namespace hakmem::telemetry {

// The run of one site, in bytes and in nanoseconds of CLOCK_MONOTONIC. Zero: no window
// has ended yet.
struct Growth {
  uint64_t since;      // its begin
  uint64_t start;      // the floor then
  uint64_t top;        // the highest floor since
  uint64_t last_rise;  // end of the window in which `top` last rose
  uint64_t rises;

  uint64_t grown() const { return top - start; }
};

inline constexpr uint64_t kFirstWindow = 1'000'000'000;
inline constexpr uint64_t kLongestWindow = 600 * kFirstWindow;
inline constexpr uint64_t kWindowsOfAge = 16;  // a window is this part of the time watched so far
inline constexpr uint64_t kStillWindows = 3;
inline constexpr uint64_t kStillShare = 4;
// With these, of 7,500 sites that hold 1 MB to 1 GB, all of it new in each window, one was a suspect in two days.
inline constexpr uint64_t kRises = 8;
inline constexpr double kDeviations = 4;
inline constexpr uint64_t kLeastGrown = 1 << 20;

// Length of the window that begins when sites have been watched for `age`.
constexpr uint64_t window_length(uint64_t age) {
  uint64_t length = age / kWindowsOfAge;
  return length < kFirstWindow ? kFirstWindow : length > kLongestWindow ? kLongestWindow : length;
}

// Whether so many bytes are more than `deviations` of an estimate of `bytes` by samples that stand
// for `interval` bytes each: its variance is bytes * interval.
constexpr bool is_beyond_chance(uint64_t difference, double deviations, uint64_t bytes, uint64_t interval) {
  auto square = static_cast<double>(difference) * static_cast<double>(difference);
  return square > deviations * deviations * static_cast<double>(bytes) * static_cast<double>(interval);
}

// A window of the site from `begin` to `end` had this floor.
constexpr void close_window(Growth* growth, uint64_t floor, uint64_t begin, uint64_t end, uint64_t interval) {
  bool is_new = growth->since == 0;
  bool has_fallen = floor < growth->top && is_beyond_chance(growth->top - floor, 1, growth->top, interval);
  if (!is_new && !has_fallen && floor > growth->top) {
    growth->top = floor;
    growth->last_rise = end;
    ++growth->rises;
    return;
  }
  uint64_t still = end - growth->last_rise;
  bool stands_still =
      still > kStillWindows * (end - begin) && still > (growth->last_rise - growth->since) / kStillShare;
  if (is_new || has_fallen || stands_still) *growth = {begin, floor, floor, end, 0};
}

constexpr bool is_suspect(const Growth& growth, uint64_t interval) {
  return growth.rises >= kRises && growth.grown() >= kLeastGrown &&
         is_beyond_chance(growth.grown(), kDeviations, growth.top, interval);
}

}  // namespace hakmem::telemetry
