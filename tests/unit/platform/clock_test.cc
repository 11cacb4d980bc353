#include "allocator/platform/clock.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "allocator/platform/tick_scale.h"

namespace hakmem {
namespace {

TEST(Clock, CoarseAndFineAgree) {
  for (int i = 0; i < 5; ++i) {
    uint64_t coarse = coarse_milliseconds();
    uint64_t fine = monotonic_nanoseconds() / 1'000'000;
    EXPECT_LE(coarse, fine + 1);
    EXPECT_LE(fine, coarse + 1000);  // the machine may be busy
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
}

TEST(TickScale, AgreesWithTheMonotonicClock) {
  TickScale scale;
  uint64_t now = ticks();
  EXPECT_EQ(scale.nanoseconds(now, now), 0u);
  EXPECT_EQ(scale.nanoseconds(now, now - 1000), 0u);  // the counter of another core
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  scale.nanoseconds(0, 1);  // calibrates over more than 20 ms: settled from here on
  // The best of some tries: between the two clocks the thread may be preempted.
  double best = 1;
  for (int i = 0; i < 20 && best > 0.005; ++i) {
    uint64_t start_ticks = ticks();
    uint64_t start = monotonic_nanoseconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    uint64_t end_ticks = ticks();
    double real = static_cast<double>(monotonic_nanoseconds() - start);
    double error = static_cast<double>(scale.nanoseconds(start_ticks, end_ticks)) / real - 1;
    if (error < 0) error = -error;
    if (error < best) best = error;
  }
  EXPECT_LT(best, 0.005);
}

TEST(TickScale, LongTimesDoNotOverflow) {
  TickScale scale;
  scale.nanoseconds(0, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(25));
  uint64_t second = scale.nanoseconds(0, 3'000'000'000);
  uint64_t thousand_hours = scale.nanoseconds(0, 3'000'000'000 * uint64_t{3'600'000});
  EXPECT_NEAR(static_cast<double>(thousand_hours) / static_cast<double>(second), 3.6e6, 1);
}

}  // namespace
}  // namespace hakmem
