#include "allocator/base/lock.h"

#include <errno.h>
#include <gtest/gtest.h>

#include <chrono>

#include "tests/unit/support/build.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::rounds;

TEST(RankedLock, OneThreadAtATime) {
  constexpr uint32_t kThreads = 4;
  const uint32_t count = rounds(200000);
  RankedLock lock(LockRank::kPageArena);
  uint64_t sum = 0;  // not atomic: lost updates show
  std::atomic<uint32_t> inside{0};
  test::run_threads(kThreads, [&](uint32_t) {
    for (uint32_t i = 0; i < count; ++i) {
      LockGuard guard(lock);
      if (inside.fetch_add(1, std::memory_order_relaxed) != 0) ADD_FAILURE() << "two threads hold the lock";
      ++sum;
      inside.fetch_sub(1, std::memory_order_relaxed);
    }
  });
  EXPECT_EQ(sum, uint64_t{kThreads} * count);
  EXPECT_FALSE(lock.is_held());
  if constexpr (kBuild.stats) {
    EXPECT_EQ(lock.stats().acquisitions, uint64_t{kThreads} * count);
  } else {
    EXPECT_EQ(lock.stats().acquisitions, 0u);
  }
}

TEST(RankedLock, WakesThoseThatSleep) {
  RankedLock lock(LockRank::kHuge);
  std::atomic<uint32_t> waiting{0};
  std::atomic<uint32_t> done{0};
  errno = 0;
  lock.lock();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      errno = 1234;
      waiting.fetch_add(1);
      lock.lock();
      EXPECT_EQ(errno, 1234);
      EXPECT_TRUE(lock.is_held());
      done.fetch_add(1);
      lock.unlock();
      EXPECT_EQ(errno, 1234);
    });
  while (waiting.load() < 3) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // long past spinning
  EXPECT_EQ(done.load(), 0u);
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done.load(), 3u);
  if constexpr (kBuild.stats) {
    LockStatsView stats = lock.stats();
    EXPECT_EQ(stats.acquisitions, 4u);
    EXPECT_EQ(stats.waits, 3u);
    EXPECT_GE(stats.wait_nanoseconds, 3u * 40'000'000);
  }
}

TEST(RankedLock, RanksMayBeTakenUpward) {
  RankedLock low(LockRank::kThreadRegistry), middle(LockRank::kSamples), high(LockRank::kPageArena);
  for (int i = 0; i < 2; ++i) {
    LockGuard first(low);
    LockGuard second(middle);
    LockGuard third(high);
    EXPECT_TRUE(low.is_held() && middle.is_held() && high.is_held());
  }
  // A lower rank is free again once the higher one is given back.
  { LockGuard third(high); }
  LockGuard first(low);
}

TEST(RankedLockDeathTest, RankOrderIsChecked) {
  if (!kBuild.assertions) GTEST_SKIP() << "only builds with assertions check ranks";
  RankedLock low(LockRank::kSharedPool), high(LockRank::kSuperslabs), same(LockRank::kSuperslabs);
  EXPECT_EXIT(
      {
        LockGuard second(high);
        LockGuard first(low);
      },
      testing::KilledBySignal(SIGABRT), "^hakmem: assertion failed: HeldRanks.*base/lock.h:[0-9]+\n$");
  EXPECT_EXIT(
      {
        LockGuard second(high);
        LockGuard first(same);
      },
      testing::KilledBySignal(SIGABRT), "hakmem: assertion failed: HeldRanks");
  EXPECT_EXIT(
      {
        LockGuard first(low);
        LockGuard again(low);
      },
      testing::KilledBySignal(SIGABRT), "hakmem: assertion failed: HeldRanks");
}

TEST(RankedLock, RanksAreHeldByThread) {
  RankedLock low(LockRank::kSharedPool), high(LockRank::kSuperslabs);
  LockGuard second(high);
  test::run_in_thread([&] { LockGuard first(low); });  // another thread holds nothing
}

}  // namespace
}  // namespace hakmem
