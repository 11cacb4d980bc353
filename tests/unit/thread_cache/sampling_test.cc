// The sampling countdown: how many samples there are, and where they stand.
#include <errno.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/metrics/sample_weight.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/random.h"
#include "tests/unit/support/sampling.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using metrics::Metric;
using test::rounds;

class SamplingTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kBuild.stats) GTEST_SKIP() << "this build does not sample";
  }

  static uint64_t samples() { return test::counter<Metric::kSamples>(); }

  // Each allocation of `bytes` is a sample with p = 1 - exp(-bytes / interval):
  // expects that of `count` as many were, within five standard deviations.
  static void expect_samples(uint64_t taken, uint64_t count, size_t bytes, size_t interval) {
    double p = 1 - std::exp(-static_cast<double>(bytes) / static_cast<double>(interval));
    double mean = p * static_cast<double>(count);
    EXPECT_NEAR(static_cast<double>(taken), mean, 5 * std::sqrt(mean * (1 - p)) + 1) << bytes;
  }
};

TEST_F(SamplingTest, AsManyAsThePoissonProcessHas) {
  constexpr size_t kInterval = 64 * kKiB;
  test::SampleInterval interval(kInterval);
  struct Case {
    size_t bytes;
    uint32_t count;
  };
  // Two classes of the table, one above it, a large and a huge one.
  for (auto [bytes, full_count] : {Case{64, 400000}, Case{1024, 60000}, Case{40960, 4000}, Case{393216, 300},
                                   Case{2 * kMiB, 60}, Case{16, 1000000}}) {
    uint32_t count = rounds(full_count);
    uint64_t before = samples();
    for (uint32_t i = 0; i < count; ++i) free(allocate(bytes));
    expect_samples(samples() - before, count, bytes, kInterval);
  }
}

TEST_F(SamplingTest, AsManyWhenBlocksStayLive) {
  constexpr size_t kInterval = 16 * kKiB;
  test::SampleInterval interval(kInterval);
  const uint32_t count = rounds(60000);
  std::vector<void*> blocks;
  uint64_t before = samples();
  for (uint32_t i = 0; i < count; ++i) blocks.push_back(allocate(320));
  expect_samples(samples() - before, count, 320, kInterval);
  for (void* block : blocks) free(block);
}

// What an allocation gets, a block freed just before or one from deep in the bin or
// from a refill, does not change how likely a sample it is; nor do frees beyond what
// a bin holds.
TEST_F(SamplingTest, AsManyOfEachKindOfAllocation) {
  constexpr size_t kInterval = 8 * kKiB;
  test::SampleInterval interval(kInterval);
  test::Random random(5);
  struct Kind {
    uint64_t count = 0;
    uint64_t samples = 0;
  };
  Kind first, early, late;
  std::vector<void*> blocks;
  for (uint32_t round = 0; round < rounds(6000); ++round) {
    const uint32_t count = random.below(round % 16 == 0 ? 1500 : 100);
    for (uint32_t i = 0; i < count; ++i) {
      blocks.push_back(allocate(192));
      Kind& kind = i == 0 ? first : i < 10 ? early : late;
      ++kind.count;
      kind.samples += test::is_sample(blocks.back());
    }
    const size_t left = random.below(static_cast<uint32_t>(blocks.size() + 1)) / 2;
    while (blocks.size() > left) {
      std::swap(blocks[random.below(static_cast<uint32_t>(blocks.size()))], blocks.back());
      free(blocks.back());
      blocks.pop_back();
    }
  }
  for (Kind kind : {first, early, late}) expect_samples(kind.samples, kind.count, 192, kInterval);
  for (void* block : blocks) free(block);
}

class SampleInABinTest : public SamplingTest {
 protected:
  static constexpr size_t kBytes = 448;

  // Frees ten blocks, the sixth where a sample is due.
  void SetUp() override {
    SamplingTest::SetUp();
    if (IsSkipped()) return;
    test::start_process();
    void* blocks[10];
    for (void*& block : blocks) block = allocate(kBytes);
    test::set_countdown(size_class_of(kBytes), 5);
    for (void* block : blocks) free(block);
    ASSERT_EQ(countdown().samples, 1u);
    test::expect_books_balance({});
  }

  static const SampleCountdown& countdown() { return thread_state.cache->classes[size_class_of(kBytes)].countdown; }

  // Which of the next ten allocations are samples.
  static std::vector<int> next_samples() {
    std::vector<int> found;
    void* blocks[10];
    for (int i = 0; i < 10; ++i) {
      blocks[i] = allocate(kBytes);
      if (test::is_sample(blocks[i])) found.push_back(i);
    }
    for (void* block : blocks) free(block);
    return found;
  }

 private:
  test::SampleInterval seldom_{1 << 30};
};

TEST_F(SampleInABinTest, IsAllocatedInItsTurn) {
  const uint64_t before = samples();
  EXPECT_EQ(next_samples(), std::vector<int>{4});
  EXPECT_EQ(samples() - before, 1u);
  EXPECT_EQ(countdown().samples, 0u);
  test::expect_books_balance({});
}

TEST_F(SampleInABinTest, GoesWithTheBlocksThatLeaveTheBin) {
  flush_thread_cache();
  EXPECT_EQ(countdown().samples, 0u);
  EXPECT_EQ(next_samples(), std::vector<int>{});
  test::expect_books_balance({});
}

TEST_F(SampleInABinTest, IsNoneWhenSamplingIsOffByThen) {
  test::SampleInterval off(0);
  const uint64_t before = samples();
  EXPECT_EQ(next_samples(), std::vector<int>{});
  EXPECT_EQ(samples(), before);
  EXPECT_EQ(countdown().samples, 0u);
  test::expect_books_balance({});
  test::expect_allocations_counted();
}

// Lists that are flushed at a thread's end credit what they never handed out.
TEST_F(SamplingTest, AsManyFromThreadsThatAllocateLittle) {
  constexpr size_t kInterval = 4 * kKiB;
  test::SampleInterval interval(kInterval);
  const uint32_t threads = rounds(4000);
  uint64_t before = samples();
  for (uint32_t i = 0; i < threads; ++i) test::run_in_thread([] { free(allocate(512)); });
  expect_samples(samples() - before, threads, 512, kInterval);
}

// The top of what a refill brings is a sample as often as what is below it, if little is
// taken of each refill, and from wherever the blocks come.
TEST_F(SamplingTest, AsManyAtTheTopOfARefill) {
  constexpr size_t kInterval = 4 * kKiB;
  test::SampleInterval interval(kInterval);
  for (size_t bytes : {size_t{512}, size_t{1024}, size_t{4096}}) {
    const uint32_t count = rounds(30000);
    uint64_t before = samples();
    for (uint32_t i = 0; i < count; ++i) {
      free(allocate(bytes));
      flush_thread_cache();
    }
    expect_samples(samples() - before, count, bytes, kInterval);
  }
}

// Every block of the bin is due to be a sample, and there is no memory for one: the
// program gets what there is, and null in the end.
TEST_F(SamplingTest, WithoutMemoryForSamplesThereAreNone) {
  if (test::kSanitized) GTEST_SKIP() << "the sanitizer needs memory too";
  test::start_process();
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    {
      test::SampleInterval off(0);
      (void)allocate(304);  // its slab has blocks for refills, which would all become samples
    }
    rlimit limit{};
    ::getrlimit(RLIMIT_DATA, &limit);
    limit.rlim_cur = 1;
    if (::setrlimit(RLIMIT_DATA, &limit) != 0) ::_exit(2);
    test::SampleInterval every(1);
    test::set_countdown(size_class_of(304), 0);
    const uint64_t before = samples();
    for (uint32_t i = 0; i < 10'000'000; ++i)
      if (allocate(304) == nullptr) ::_exit(errno == ENOMEM && samples() > before ? 0 : 3);
    ::_exit(4);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// What is drawn does not fit into a countdown, and the one that does ends without a sample.
TEST_F(SamplingTest, NoneAtTheEndOfTheLongestCountdown) {
  test::start_process();
  test::SampleInterval interval(uint64_t{1} << 60);  // one draw in four million fits
  const uint32_t size_class = size_class_of(272);
  auto& countdown = thread_state.cache->classes[size_class].countdown;
  const uint64_t before = samples();
  for (int round = 0; round < 20; ++round) {
    test::set_countdown(size_class, 1);
    countdown.is_sampling = false;  // as at the end of such a countdown
    void* blocks[4];
    for (void*& block : blocks) block = allocate(272);
    for (void* block : blocks) free(block);
    EXPECT_FALSE(countdown.is_sampling);
    EXPECT_GT(countdown.until_sample, 1u << 29);
  }
  EXPECT_EQ(samples(), before);
}

// More bytes than an integer holds are drawn, six times in ten.
TEST_F(SamplingTest, NoneOfLargeAllocationsAtTheLongestInterval) {
  test::start_process();
  test::SampleInterval interval(UINT64_MAX);
  int64_t& bytes_left = thread_state.cache->bytes_until_large_sample;
  const uint64_t before = samples();
  for (int draw = 0; draw < 20; ++draw) {
    bytes_left = 0;
    free(allocate(kMiB));
    EXPECT_GT(bytes_left, 0);
  }
  EXPECT_EQ(samples(), before);
  bytes_left = 0;
}

TEST_F(SamplingTest, NoneWhenItIsOff) {
  test::SampleInterval interval(0);
  // Classes that no other test here uses: a countdown that was drawn runs out first.
  uint64_t before = samples();
  for (uint32_t i = 0; i < rounds(100000); ++i) free(allocate(240));
  for (uint32_t i = 0; i < rounds(10000); ++i) free(allocate(20000));
  EXPECT_EQ(samples(), before);
}

TEST_F(SamplingTest, NoneWhereNobodyLearnsOfThem) {
  test::SampleInterval interval(1);  // every allocation
  test::SampleInterval::follow(false);
  const uint64_t before = samples();
  const uint64_t allocations = test::counter<Metric::kAllocations>(size_class_of(64));
  for (uint32_t i = 0; i < 1000; ++i) {
    for (size_t bytes : {size_t{64}, 40 * kKiB, 400 * kKiB, 2 * kMiB}) free(allocate(bytes));
  }
  EXPECT_EQ(samples(), before);
  // They are counted nevertheless.
  EXPECT_GE(test::counter<Metric::kAllocations>(size_class_of(64)) - allocations, 990u);
  test::SampleInterval::follow(true);
  free(test::allocate_sampled(64));
}

TEST_F(SamplingTest, WhatTheyStandForIsRightWhileTheIntervalChanges) {
  static double objects[2], squares[2];  // of a class, and of none
  test::SampleInterval interval(64 * kKiB);
  test::SampleInterval::follow_by([](const metrics::Sample& sample) {
    double weight =
        static_cast<double>(metrics::sample_weight(sample.drawn, metrics::sample_interval(sample.doublings))) /
        metrics::kPartsOfObject;
    objects[sample.size_class >= kSizeClassCount] += weight;
    squares[sample.size_class >= kSizeClassCount] += weight * weight;
  });
  double counts[2] = {};
  // Each countdown with the longer interval goes on for many rounds, and most of the others end in theirs.
  for (uint32_t round = 0; round < 10000; ++round) {
    test::SampleInterval::set_doublings(round % 2 * 5);
    for (int i = 0; i < 20; ++i, ++counts[0]) free(allocate(8 * kKiB));
    if (round % 8 >= 2) continue;
    for (int i = 0; i < 10; ++i, ++counts[1]) free(allocate(300 * kKiB));
  }
  test::SampleInterval::set_doublings(0);
  // The sum of squares is about the variance of the sum.
  for (int i : {0, 1}) {
    EXPECT_NEAR(objects[i], counts[i], 5 * std::sqrt(squares[i]));
    EXPECT_LT(5 * std::sqrt(squares[i]), 0.3 * counts[i]);
  }
}

TEST_F(SamplingTest, FewEmptySlabsStayForTheNextSamples) {
  test::SampleInterval interval(1);
  // More than one slab of one class, and one each of many.
  std::vector<void*> blocks;
  for (int i = 0; i < 5000; ++i) blocks.push_back(test::allocate_sampled(128));
  for (size_t bytes = 1024; bytes <= 16 * kKiB; bytes += 1024) blocks.push_back(test::allocate_sampled(bytes));
  for (int round = 0; round < 2; ++round) {
    for (void* block : blocks) free(block);
    uint32_t kept = 0;
    {
      LockGuard guard(sampled_slabs.lock);
      for (const SlabList& slabs : sampled_slabs.part_full)
        for (const Slab* slab = slabs.first(); slab != nullptr; slab = slab->next) ++kept;
    }
    EXPECT_EQ(kept, SampledSlabs::kKept);
    for (void*& block : blocks) block = test::allocate_sampled(2000);
  }
  for (void* block : blocks) free(block);
  test::expect_books_balance({});
}

TEST_F(SamplingTest, SamplesStandInSlabsThatNobodyOwns) {
  test::SampleInterval interval(1);  // every allocation
  std::vector<char*> blocks;
  for (int i = 0; i < 5000; ++i) {
    blocks.push_back(static_cast<char*>(allocate(128)));
    const Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks.back()));
    ASSERT_EQ(slab->owner.load(), owner::kSampled);
    ASSERT_EQ(slab->state, SlabState::Sampled);
    ASSERT_EQ(usable_bytes(blocks.back()), 128u);
    blocks.back()[0] = blocks.back()[127] = static_cast<char>(i);
  }
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(blocks[static_cast<size_t>(i)][127], static_cast<char>(i));
  // Freed by whomever.
  test::run_in_thread([&] {
    for (size_t i = 0; i < blocks.size(); i += 2) free(blocks[i]);
  });
  std::vector<void*> again;
  for (int i = 0; i < 1000; ++i) again.push_back(allocate(128));
  for (size_t i = 1; i < blocks.size(); i += 2) free(blocks[i]);
  for (void* block : again) free(block);
  test::expect_books_balance({});
}

}  // namespace
}  // namespace hakmem
