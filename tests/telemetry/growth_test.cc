// What is a leak suspect and what is not, over made-up histories of one site.
#include "telemetry/growth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "telemetry/growth_watch.h"
#include "telemetry/heap_profile.h"

namespace hakmem::telemetry {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kInterval = 512 << 10;
constexpr uint64_t kHour = 3600 * kSecond;

// A site whose floor in each window a function of its time says.
class History {
 public:
  using Floor = std::function<double(double seconds)>;

  explicit History(Floor floor) : floor_(std::move(floor)) {}

  // Lives on; whether the site was a suspect at the end of any window, and at the last.
  struct Verdict {
    bool ever = false, at_end = false;
  };
  Verdict live_until(uint64_t end) {
    Verdict verdict;
    while (now_ < end) {
      uint64_t begin = now_;
      now_ += window_length(now_);
      auto floor = static_cast<uint64_t>(floor_(static_cast<double>(begin) / static_cast<double>(kSecond)));
      close_window(&growth_, floor, kBoot + begin, kBoot + now_, kInterval);
      verdict.at_end = is_suspect(growth_, kInterval);
      verdict.ever = verdict.ever || verdict.at_end;
    }
    return verdict;
  }
  // Of the run, in seconds of the history.
  double since() const { return static_cast<double>(growth_.since - kBoot) / static_cast<double>(kSecond); }
  const Growth& growth() const { return growth_; }

 private:
  static constexpr uint64_t kBoot = 1000 * kSecond;
  Floor floor_;
  Growth growth_{};
  uint64_t now_ = 0;
};

// As samples tell it: each stands for the interval.
double estimate(double bytes, std::mt19937_64& random) {
  std::poisson_distribution<uint64_t> samples(bytes / kInterval);
  return static_cast<double>(samples(random) * kInterval);
}

TEST(Growth, ALeakIsFoundSoonAndItsAgeKept) {
  auto leak = [](double seconds) { return 2e6 * seconds; };
  History fast(leak);
  EXPECT_TRUE(fast.live_until(15 * kSecond).at_end);
  EXPECT_TRUE(fast.live_until(72 * kHour).at_end);
  EXPECT_LT(fast.since(), 5);
  EXPECT_NEAR(static_cast<double>(fast.growth().grown()), leak(72 * 3600), leak(1000));
  // One that begins after a day of rest.
  History late([](double seconds) { return 50e6 + 1e5 * std::max(0.0, seconds - 86400); });
  EXPECT_FALSE(late.live_until(24 * kHour).ever);
  EXPECT_TRUE(late.live_until(26 * kHour).at_end);
  EXPECT_NEAR(late.since(), 86400, 1200);
}

TEST(Growth, ASlowLeakIsFoundWhenItExceedsChance) {
  // A sample in twelve minutes: ten of them might be chance.
  History slow([](double seconds) { return std::floor(seconds / 700) * kInterval; });
  EXPECT_FALSE(slow.live_until(2 * kHour).ever);
  EXPECT_TRUE(slow.live_until(24 * kHour).at_end);
}

TEST(Growth, WhatGrewAndStandsStillIsNoneAnyMore) {
  for (double seconds : {30.0, 600.0, 20000.0}) {
    History filling([&](double now) { return 1e6 * std::min(now, seconds); });
    EXPECT_TRUE(filling.live_until(static_cast<uint64_t>(seconds) * kSecond).at_end) << seconds;
    uint64_t later = static_cast<uint64_t>(seconds * 1.6 + 5) * kSecond +
                     4 * window_length(static_cast<uint64_t>(seconds) * kSecond);
    EXPECT_FALSE(filling.live_until(later).at_end) << seconds;
    EXPECT_FALSE(filling.live_until(2 * later + 24 * kHour).at_end) << seconds;
  }
}

TEST(Growth, WhatFallsIsNone) {
  // A swing over five windows at any age, from nothing to 80 MiB.
  uint64_t window = 0;
  History swinging([&](double) { return static_cast<double>(window++ % 5 * 20 * kMiB); });
  EXPECT_FALSE(swinging.live_until(48 * kHour).ever);
  History shrinking([](double seconds) { return 1e12 - 1e6 * seconds; });
  EXPECT_FALSE(shrinking.live_until(48 * kHour).ever);
}

TEST(Growth, ChanceOfSamplesIsNoGrowth) {
  std::mt19937_64 random(7);  // NOLINT: a fixed seed
  int suspects = 0;
  for (double bytes : {1e6, 2e7, 1e9})
    for (int site = 0; site < 300; ++site) {
      History steady([&](double) { return estimate(bytes, random); });
      suspects += steady.live_until(48 * kHour).ever;
    }
  EXPECT_EQ(suspects, 0);
}

const void* at(uintptr_t number) { return reinterpret_cast<const void*>(number * 4096); }

TEST(Growth, TheFloorOfASiteIsTheLeastItHeld) {
  metrics::sample_interval_bytes = 1;
  SiteFigures suspects[kMaxSuspects];
  auto step = [](uintptr_t number) { on_sample({at(number), kMiB, kMiB, kMiB, 0, false}); };
  uint64_t now = kSecond;
  auto end_window = [&] { watch_growth(now += 2 * kSecond); };
  watch_growth(now);
  size_t before = copy_suspects(suspects, kMaxSuspects);
  uintptr_t number = 1000;
  for (uint64_t window = 0; window < kRises + 2; ++window) {
    step(number++);
    // Grown by realloc: what it holds does not fall meanwhile.
    on_sample_resize(at(number - 1), at(number - 1), 2 * kMiB, 2 * kMiB);
    end_window();
  }
  EXPECT_EQ(copy_suspects(suspects, kMaxSuspects), before + 1);
  EXPECT_GE(suspects[0].growth.grown(), kRises * 2 * kMiB);
  EXPECT_EQ(copy_suspects(suspects, 0), 0u);
  // Once it holds nothing, for however short, it is none.
  for (uintptr_t each = 1000; each < number; ++each) on_sample_free(at(each));
  for (uintptr_t each = 1000; each < number; ++each) step(each);
  end_window();
  EXPECT_EQ(copy_suspects(suspects, kMaxSuspects), before);
  for (uintptr_t each = 1000; each < number; ++each) on_sample_free(at(each));
  metrics::sample_interval_bytes = metrics::kDefaultSampleIntervalBytes;
}

}  // namespace
}  // namespace hakmem::telemetry
