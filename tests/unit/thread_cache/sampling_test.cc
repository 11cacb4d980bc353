// The sampling countdown: how many samples there are, and where they stand.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
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

// Lists that are flushed at a thread's end credit what they never handed out.
TEST_F(SamplingTest, AsManyFromThreadsThatAllocateLittle) {
  constexpr size_t kInterval = 4 * kKiB;
  test::SampleInterval interval(kInterval);
  const uint32_t threads = rounds(4000);
  uint64_t before = samples();
  for (uint32_t i = 0; i < threads; ++i) test::run_in_thread([] { free(allocate(512)); });
  expect_samples(samples() - before, threads, 512, kInterval);
}

TEST_F(SamplingTest, NoneWhenItIsOff) {
  test::SampleInterval interval(0);
  // Classes that no other test here uses: a countdown that was drawn runs out first.
  uint64_t before = samples();
  for (uint32_t i = 0; i < rounds(100000); ++i) free(allocate(240));
  for (uint32_t i = 0; i < rounds(10000); ++i) free(allocate(20000));
  EXPECT_EQ(samples(), before);
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
