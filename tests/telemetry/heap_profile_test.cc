// The heap profile's own books, and its stacks against those of libc's backtrace().
#include "telemetry/heap_profile.h"

#include <execinfo.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <thread>
#include <vector>

#include "telemetry/heap_books.h"
#include "telemetry/unwind.h"
#include "tests/telemetry/fake_heap.h"

namespace hakmem::telemetry {
namespace {

struct Books {
  std::vector<SiteFigures> sites;
  std::vector<SampleFigures> samples;
  ProfileTotals totals{};

  Amounts sum(Amounts SiteFigures::*amounts) const {
    Amounts result{};
    for (const SiteFigures& site : sites) {
      result.objects += (site.*amounts).objects;
      result.bytes += (site.*amounts).bytes;
      result.requested += (site.*amounts).requested;
    }
    return result;
  }
};

Books books() {
  Books result;
  EXPECT_TRUE(copy_profile(nullptr, 0, nullptr, 0, &result.totals));
  result.sites.resize(result.totals.sites);
  result.samples.resize(result.totals.samples);
  EXPECT_TRUE(copy_profile(result.sites.data(), result.sites.size(), result.samples.data(), result.samples.size(),
                           &result.totals));
  return result;
}

const void* at(uintptr_t number) { return reinterpret_cast<const void*>(number * 4096); }

metrics::Sample sample(uintptr_t number, size_t bytes) { return {at(number), bytes - 1, bytes, bytes, 0, false}; }

// The sum over what the profile has gained since the start of a test.
uint64_t gain(const Amounts& now, const Amounts& before) { return now.bytes - before.bytes; }

class HeapProfileTest : public testing::Test {
 protected:
  void SetUp() override { metrics::sample_interval_bytes = 1; }  // each sample stands for itself
  void TearDown() override { metrics::sample_interval_bytes = metrics::kDefaultSampleIntervalBytes; }
  Books before_ = books();
};

TEST(SampleWeight, IsTheInverseOfTheChance) {
  for (double ratio : {1e-6, 1e-3, 0.1, 0.2499, 0.2501, 0.7, 1.0, 3.0, 10.0, 31.0, 33.0}) {
    constexpr uint64_t kInterval = 1 << 30;
    auto bytes = static_cast<uint64_t>(ratio * kInterval);
    double exact = -1 / std::expm1(-static_cast<double>(bytes) / kInterval);
    EXPECT_NEAR(static_cast<double>(metrics::sample_weight(bytes, kInterval)) / kPartsOfObject / exact, 1, 1e-4)
        << ratio;
  }
  EXPECT_EQ(metrics::sample_weight(16, 0), kPartsOfObject);
}

TEST_F(HeapProfileTest, KeepsWhatIsLiveWhatWasAllocatedAndThePeak) {
  on_sample(sample(1, 1000));
  on_sample(sample(2, 3000));
  on_sample_free(at(1));
  on_sample(sample(3, 500));
  on_sample_free(at(77));  // never was one
  Books now = books();
  EXPECT_EQ(gain(now.sum(&SiteFigures::live), before_.sum(&SiteFigures::live)), 3500u);
  EXPECT_EQ(gain(now.sum(&SiteFigures::allocated), before_.sum(&SiteFigures::allocated)), 4500u);
  EXPECT_EQ(now.sum(&SiteFigures::live).requested, 2999u + 499u);
  EXPECT_EQ(now.sum(&SiteFigures::live).objects, 2 * kPartsOfObject);
  EXPECT_EQ(now.samples.size(), 2u);
  EXPECT_EQ(now.sum(&SiteFigures::peak).bytes, std::max<uint64_t>(4000, before_.sum(&SiteFigures::peak).bytes));
  on_sample_free(at(2));
  on_sample_free(at(3));
  EXPECT_EQ(books().sum(&SiteFigures::live).bytes, 0u);
  EXPECT_EQ(books().totals.samples, 0u);
}

TEST_F(HeapProfileTest, AnAddressWhoseFreeWasMissedIsTakenAnew) {
  on_sample(sample(1, 1000));
  on_sample(sample(1, 200));
  EXPECT_EQ(books().sum(&SiteFigures::live).bytes, 200u);
  on_sample_free(at(1));
  EXPECT_EQ(books().sum(&SiteFigures::live).bytes, 0u);
}

TEST_F(HeapProfileTest, ResizedSamplesMoveAndGrow) {
  on_sample(sample(1, 2000000));
  on_sample_resize(at(1), at(2), 4999999, 5000000);
  on_sample_resize(at(3), at(4), 1, 1);  // no sample
  EXPECT_EQ(books().sum(&SiteFigures::live).bytes, 5000000u);
  // A draw for what it grew by: more was allocated, not another object.
  on_sample({at(2), 4999999, 5000000, 3000000, 0, true});
  Books now = books();
  EXPECT_EQ(now.sum(&SiteFigures::live).bytes, 5000000u);
  EXPECT_EQ(gain(now.sum(&SiteFigures::allocated), before_.sum(&SiteFigures::allocated)), 5000000u);
  on_sample_free(at(1));
  EXPECT_EQ(books().totals.samples, 1u);
  on_sample_free(at(2));
  EXPECT_EQ(books().totals.samples, 0u);
}

TEST_F(HeapProfileTest, ASamplePinsItsShareOfTheSlabThatItWouldStandIn) {
  constexpr uintptr_t kSlab = uintptr_t{5} << 40;
  constexpr size_t kSlabBytes = size_t{1} << kBesideShift;
  constexpr uint32_t kClass = 7;
  metrics::SlabView slab{kSlab, kSlabBytes, kClass, metrics::SlabState::Available, 128, 256, 250, 100, 0};
  auto pinned = [&](uintptr_t beside) {
    fake_heap.slabs[kSlab] = {slab};
    on_sample({at(1), 128, 128, 128, kClass, false, beside});
    double found = books().samples.at(0).pinned;
    on_sample_free(at(1));
    fake_heap.slabs.clear();
    return found;
  };
  EXPECT_EQ(pinned(kSlab + 999), 150 * 128 / 100);
  EXPECT_EQ(pinned(0), 0) << "what has no slab";
  EXPECT_EQ(pinned(kSlab + slab.bytes), kSlabBytes) << "its slab is gone: it would hold one by itself";
  slab.carved = slab.used;
  EXPECT_EQ(pinned(kSlab), 0);
  slab.size_class = kClass + 1;
  EXPECT_EQ(pinned(kSlab), kSlabBytes) << "units of its slab hold another class by now";
}

TEST_F(HeapProfileTest, ManySamplesAndThreadsLeaveNothingBehind) {
  constexpr uintptr_t kEach = 20000;
  std::vector<std::thread> threads;
  for (uintptr_t thread = 0; thread < 4; ++thread)
    threads.emplace_back([thread] {
      for (uintptr_t i = 0; i < kEach; ++i) on_sample(sample(thread * kEach + i + 1, 64));
      for (uintptr_t i = 0; i < kEach; i += 2) on_sample_free(at(thread * kEach + i + 1));
    });
  for (std::thread& thread : threads) thread.join();
  uint64_t live = books().sum(&SiteFigures::live).bytes;
  for (uintptr_t i = 1; i <= 4 * kEach; ++i) on_sample_free(at(i));
  if (books().totals.dropped != before_.totals.dropped)
    GTEST_SKIP() << "a thread inside the profile got no processor for as long as others wait for its lock";
  EXPECT_EQ(live, 4 * kEach / 2 * 64);
  EXPECT_EQ(books().sum(&SiteFigures::live).bytes, 0u);
}

TEST_F(HeapProfileTest, AChildHasTheSamplesOfItsParent) {
  on_sample(sample(1, 1000));
  pid_t child = fork();
  if (child == 0) {
    leave_profile_to_parent();
    bool has_it = books().sum(&SiteFigures::live).bytes == 1000;
    on_sample_free(at(1));
    _exit(has_it && books().sum(&SiteFigures::live).bytes == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  on_sample_free(at(1));
}

// -- stacks -----------------------------------------------------------------------------------------

struct Stacks {
  std::vector<uintptr_t> ours, theirs;
} stacks;

__attribute__((noinline)) void take_stacks() {
  uintptr_t ours[48];
  void* theirs[64];
  size_t count = capture_stack(ours, std::size(ours));
  stacks.ours.assign(ours, ours + count);
  int frames = backtrace(theirs, std::size(theirs));
  stacks.theirs.clear();
  for (int i = 0; i < frames; ++i) stacks.theirs.push_back(reinterpret_cast<uintptr_t>(theirs[i]));
}

// What is innermost in this program is left out of our stack, as the library's own frames are.
void expect_equal_stacks() {
  ASSERT_GT(stacks.ours.size(), 3u);
  auto first = std::find(stacks.theirs.begin(), stacks.theirs.end(), stacks.ours.front());
  ASSERT_NE(first, stacks.theirs.end());
  size_t count = std::min<size_t>(stacks.ours.size(), static_cast<size_t>(stacks.theirs.end() - first));
  EXPECT_GT(count, 3u);
  for (size_t i = 0; i < count; ++i) EXPECT_EQ(stacks.ours[i], first[static_cast<ptrdiff_t>(i)]) << "frame " << i;
}

// Through libc and back into this program.
__attribute__((noinline)) int call_through_libc(int (*compare)(const void*, const void*)) {
  int numbers[2] = {2, 1};
  qsort(numbers, 2, sizeof numbers[0], compare);
  return numbers[0];
}

TEST(Unwinding, AgreesWithBacktrace) {
  prepare_unwinding();
  call_through_libc([](const void*, const void*) {
    take_stacks();
    return 1;
  });
  expect_equal_stacks();
}

__attribute__((noinline)) int with_an_aligned_frame(size_t bytes) {
  alignas(128) char buffer[256];
  auto* more = static_cast<char*>(__builtin_alloca(bytes));
  __asm__ volatile("" : : "r"(buffer), "r"(more) : "memory");
  int result = call_through_libc([](const void*, const void*) {
    take_stacks();
    return 1;
  });
  __asm__ volatile("" : : "r"(buffer), "r"(more) : "memory");
  return result;
}

TEST(Unwinding, GoesThroughFramesThatAlignTheStack) {
  prepare_unwinding();
  with_an_aligned_frame(777);
  expect_equal_stacks();
}

TEST(Unwinding, GoesThroughSignalHandlers) {
  prepare_unwinding();
  take_stacks();  // what allocates does so now, and not in the handler
  stacks.ours.reserve(64);
  stacks.theirs.reserve(64);
  struct sigaction action {
  }, old{};
  action.sa_handler = [](int) { take_stacks(); };
  sigaction(SIGUSR1, &action, &old);
  raise(SIGUSR1);
  sigaction(SIGUSR1, &old, nullptr);
  expect_equal_stacks();
}

}  // namespace
}  // namespace hakmem::telemetry
