// How the interval of samples follows what they come to in a second.
#include "telemetry/sample_rate.h"

#include <gtest/gtest.h>

namespace hakmem::telemetry {
namespace {

constexpr double kNanoseconds = 1e9;

// Where the interval stands after `seconds` of a program that would have `rate` samples a second, and how many came.
struct Course {
  SampleRate rate;
  uint64_t now = 1'000'000'000'000;
  uint32_t doublings = 0;

  uint64_t run(double undoubled_rate, double seconds) {
    const auto end = now + static_cast<uint64_t>(seconds * kNanoseconds);
    uint64_t samples = 0;
    while (now < end) {
      now += static_cast<uint64_t>(kNanoseconds / undoubled_rate * static_cast<double>(1u << doublings));
      doublings = rate.after_sample(now, doublings);
      ++samples;
    }
    return samples;
  }
};

TEST(SampleRate, AnOrdinaryProgramKeepsItsInterval) {
  for (double rate : {0.01, 1.0, 400.0, 1900.0}) {
    Course course;
    course.run(rate, 10);
    EXPECT_EQ(course.doublings, 0u) << rate;
  }
}

TEST(SampleRate, IsBoundedWhateverTheProgramDoes) {
  for (double rate : {2500.0, 10'000.0, 150'000.0, 1e6}) {
    Course course;
    const uint64_t samples = course.run(rate, 10);
    EXPECT_LE(samples, 10 * SampleRate::kMost + 512) << rate;
    EXPECT_GE(samples, 10 * SampleRate::kMost / 4) << rate;
  }
}

TEST(SampleRate, ComesBackWhenTheProgramRests) {
  Course course;
  course.run(150'000, 2);
  EXPECT_GE(course.doublings, 6u);
  course.run(100, 20);
  EXPECT_EQ(course.doublings, 0u);
  // At once, after a long rest.
  course.run(150'000, 2);
  course.now += 3'600'000'000'000;
  course.run(1, 2);
  EXPECT_EQ(course.doublings, 0u);
}

TEST(SampleRate, AStandingClockIsNoEndlessLoop) {
  SampleRate rate;
  uint32_t doublings = 0;
  for (int i = 0; i < 10'000; ++i) doublings = rate.after_sample(7, doublings);
  EXPECT_EQ(doublings, SampleRate::kMaxDoublings);
}

}  // namespace
}  // namespace hakmem::telemetry
