// Threads that are not the program's: what they allocate is in no figure of its heap.
#include "allocator/thread_cache/private_thread.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <functional>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/api/statistics.h"
#include "allocator/thread_cache/internal.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

constexpr size_t kSizes[] = {0, 1, 16, 100, 1000, 5000, 40'000, 300'000, 5'000'000};

class PrivateThreadTest : public testing::Test {
 protected:
  PrivateThreadTest() {
    if (!kBuild.stats) return;
    test::start_process();
    thread_.run([] { EXPECT_TRUE(leave_program()); });
  }
  void SetUp() override {
    if (!kBuild.stats) GTEST_SKIP() << "no thread is private in this build";
  }

  // In the private thread.
  void run(const std::function<void()>& body) { thread_.run(body); }

  struct Figures {
    uint32_t threads;
    size_t used_bytes, superslab_bytes, huge_bytes, slabs, free_blocks;
    uint64_t allocations, refills, threads_started;
    bool operator==(const Figures&) const = default;
  };
  static Figures figures() {
    HeapTotals totals = heap_totals();
    Figures result{thread_count(),
                   totals.used_bytes,
                   totals.superslab_bytes,
                   totals.huge_bytes,
                   totals.slabs,
                   totals.free_blocks,
                   0,
                   0,
                   test::counter<metrics::Metric::kThreadsStarted>()};
    for (uint32_t i = 0; i < kSizeClassCount; ++i) result.refills += test::refill_objects(i);
    for (uint32_t i = 0; i < metrics::kSizeClassCount; ++i)
      result.allocations += test::counter<metrics::Metric::kAllocations>(i);
    return result;
  }

  test::OtherThread thread_;
};

TEST_F(PrivateThreadTest, NothingOfItIsInTheProgramsHeap) {
  Figures before = figures();
  run([] {
    std::vector<void*> blocks;
    for (size_t bytes : kSizes) {
      blocks.push_back(allocate(bytes));
      blocks.push_back(allocate_zeroed(1, bytes));
      blocks.push_back(allocate_aligned(256, bytes));
      blocks.push_back(reallocate(allocate(bytes), 2 * bytes + 100));
    }
    for (void* block : blocks) {
      EXPECT_TRUE(is_private(block));
      EXPECT_GT(usable_bytes(block), 0u);
      free(block);
    }
  });
  EXPECT_EQ(figures(), before);
  EXPECT_TRUE(private_heap.is_consistent());
}

TEST_F(PrivateThreadTest, EachFunctionDoesWhatItSays) {
  run([] {
    for (size_t bytes : kSizes) {
      auto* block = static_cast<unsigned char*>(allocate(bytes));
      memset(block, 0xa5, usable_bytes(block));
      free(block);
      auto* zeroed = static_cast<unsigned char*>(allocate_zeroed(bytes, 1));
      for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(zeroed[i], 0);
      memset(zeroed, 1, bytes);
      size_t more = bytes * 3 + 50;
      auto* grown = static_cast<unsigned char*>(reallocate(zeroed, more));
      EXPECT_GE(usable_bytes(grown), more);
      for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(grown[i], 1);
      auto* shrunk = static_cast<unsigned char*>(reallocate(grown, bytes / 2 + 1));
      for (size_t i = 0; i < bytes / 2; ++i) ASSERT_EQ(shrunk[i], 1);
      EXPECT_EQ(reallocate(shrunk, 0), nullptr);
      for (size_t alignment : {16, 32, 4096, 65536}) {
        void* aligned = allocate_aligned(alignment, bytes);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % alignment, 0u);
        EXPECT_TRUE(check_size(aligned, alignment, bytes == 0 ? 1 : bytes));
        free(aligned);
      }
    }
  });
  EXPECT_TRUE(private_heap.is_consistent());
}

TEST_F(PrivateThreadTest, OthersFreeAndResizeItsBlocksAndItTheirs) {
  std::vector<void*> its, ours;
  for (size_t bytes : kSizes) ours.push_back(allocate(bytes));
  run([&] {
    for (size_t bytes : kSizes) its.push_back(allocate(bytes));
    for (void* block : ours) free(block);
  });
  for (size_t i = 0; i < its.size(); ++i) {
    EXPECT_GE(usable_bytes(its[i]), kSizes[i]);
    if (i % 2 == 0) its[i] = reallocate(its[i], kSizes[i] * 2 + 64);  // where it moves it is the program's
    EXPECT_EQ(is_private(its[i]), i % 2 != 0);
    free(its[i]);
  }
  EXPECT_TRUE(private_heap.is_consistent());
  EXPECT_TRUE(heap_is_consistent());
}

TEST_F(PrivateThreadTest, WhereItsHeapIsFullItHasTheProgramsMemory) {
  run([] {
    errno = 7;
    size_t most = PrivateHeap<LinuxMemory>::kMostBytes;
    void* rest = allocate(most - 8 * kMiB);
    EXPECT_TRUE(is_private(rest));
    for (size_t bytes : {most, 10 * kMiB}) {
      auto* block = static_cast<char*>(allocate(bytes));
      EXPECT_FALSE(is_private(block));
      block[bytes - 1] = 1;
      free(block);
      void* aligned = allocate_aligned(kMiB, bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % kMiB, 0u);
      free(aligned);
    }
    std::vector<void*> small;
    while (small.empty() || is_private(small.back())) small.push_back(allocate(40'000));
    void* aligned = allocate_aligned(4096, 30'000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % 4096, 0u);
    small.push_back(aligned);
    for (void* block : small) free(block);
    free(rest);
    EXPECT_EQ(errno, 7);
    EXPECT_EQ(allocate(SIZE_MAX / 2), nullptr);
    EXPECT_EQ(errno, ENOMEM);
  });
  EXPECT_TRUE(private_heap.is_consistent());
  EXPECT_TRUE(heap_is_consistent());
}

TEST_F(PrivateThreadTest, AThreadOfTheProgramStaysOne) {
  free(allocate(1));
  EXPECT_FALSE(leave_program());
  EXPECT_FALSE(is_private(allocate(1)));
}

TEST_F(PrivateThreadTest, MisuseOfItsBlocksIsReported) {
  void* block = nullptr;
  run([&] { block = allocate(100); });
  auto free_hidden = [](void* address) {
    void* volatile hidden = address;
    free(hidden);
  };
  const char* line = "not the start of an allocated block:";
  EXPECT_DEATH((free_hidden(block), free_hidden(block)), line);
  EXPECT_DEATH(free_hidden(static_cast<char*>(block) + 16), line);
  EXPECT_DEATH(reallocate(static_cast<char*>(block) + 16, 1000), line);
  EXPECT_DEATH(check_size(block, 1, 1000), "wrong size");
  free(block);
}

}  // namespace
}  // namespace hakmem
