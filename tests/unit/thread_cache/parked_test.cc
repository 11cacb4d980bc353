// Caches of ended threads: who gets them, and who has them emptied.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <utility>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/lifetime.h"
#include "allocator/thread_cache/thread_cache.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::run_in_thread;

class ParkedTest : public testing::Test {
 protected:
  static constexpr size_t kBytes = 512;
  static constexpr uint32_t kMany = 20;  // more than stay parked

  ParkedTest() {
    test::start_process();
    flush_thread_cache();
  }
  ~ParkedTest() override {
    flush_thread_cache();
    EXPECT_EQ(count_parked(), 0u);
    test::expect_books_balance({});
    EXPECT_EQ(test::unsampled_slabs(), 0u);
  }

  static uint32_t count_parked() {
    uint32_t count = 0;
    for (const ThreadCache* cache = first_registered_cache(); cache != nullptr; cache = cache->next_registered)
      count += cache->use.load() == ThreadCache::Use::kParked;
    return count;
  }

  // A thread that allocates, frees and ends; the cache that it had.
  static ThreadCache* use_in_thread(size_t count) {
    ThreadCache* cache = nullptr;
    run_in_thread([&] {
      use(count);
      cache = thread_state.cache;
    });
    return cache;
  }
  static void use(size_t count) {
    std::vector<void*> blocks;
    for (size_t i = 0; i < count; ++i) blocks.push_back(allocate(kBytes));
    for (void* block : blocks) free(block);
  }
  static uint32_t in_bin(const ThreadCache* cache) { return cache->blocks_in_bin(size_class_of(kBytes)); }

  static bool move_to(uint32_t processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
  }

  test::SampleInterval interval_{0};
};

TEST_F(ParkedTest, TheNextThreadGoesOnWithWhatTheLastOneLeft) {
  void* last = nullptr;
  ThreadCache* cache = nullptr;
  run_in_thread([&] {
    use(50);
    last = allocate(kBytes);
    free(last);
    cache = thread_state.cache;
  });
  EXPECT_EQ(cache->use.load(), ThreadCache::Use::kParked);
  EXPECT_GT(in_bin(cache), 0u);
  run_in_thread([&] {
    void* first = allocate(kBytes);
    EXPECT_EQ(thread_state.cache, cache);
    EXPECT_EQ(first, last);
    free(first);
  });
}

TEST_F(ParkedTest, WhatIsFreeInThemIsUsedBeforeANewSlab) {
  std::vector<void*> blocks;
  run_in_thread([&] {
    for (uint32_t i = 0; i < 20 * kClassShapes[size_class_of(kBytes)].capacity; ++i) blocks.push_back(allocate(kBytes));
    for (size_t i = 0; i < blocks.size(); i += 2) free(blocks[i]);
  });
  uint64_t slabs = test::unsampled_slabs();
  std::vector<void*> more;
  for (size_t i = 0; i < blocks.size() / 2; ++i) more.push_back(allocate(kBytes));
  EXPECT_LE(test::unsampled_slabs(), slabs);
  EXPECT_EQ(count_parked(), 0u);
  for (size_t i = 1; i < blocks.size(); i += 2) free(blocks[i]);
  for (void* block : more) free(block);
}

TEST_F(ParkedTest, NoMoreThanAFew) {
  test::run_threads(kMany, [](uint32_t) { use(10); });
  EXPECT_GT(count_parked(), 0u);
  EXPECT_LE(count_parked(), 8u);
}

TEST_F(ParkedTest, WithFewSlabs) {
  constexpr size_t kSizes[] = {512, 400, 304};
  constexpr size_t kEach = 12 * kMiB;  // more than 16 MiB in all
  std::vector<void*> blocks;
  for (size_t bytes : kSizes)
    for (size_t i = 0; i < kEach / bytes; ++i) blocks.push_back(allocate(bytes));
  ThreadCache* cache = nullptr;
  run_in_thread([&] {
    // Each slab is the thread's with the first of its blocks that it frees.
    for (size_t i = 0; i < blocks.size(); i += 8) free(std::exchange(blocks[i], nullptr));
    cache = thread_state.cache;
  });
  ASSERT_EQ(cache->use.load(), ThreadCache::Use::kParked);
  size_t bytes = 0;
  for (uint32_t i = 0; i < kSizeClassCount; ++i) {
    const ClassState& state = cache->classes[i];
    bytes += (state.available_count + state.sleeping_count) * kClassShapes[i].units * kUnitBytes;
  }
  EXPECT_LE(bytes, 16 * kMiB);
  EXPECT_GT(bytes, 0u);
  for (void* block : blocks) free(block);
}

TEST_F(ParkedTest, NotForLong) {
  ThreadCache* cache = use_in_thread(10);
  test::let_a_second_pass();
  EXPECT_FALSE(release_parked(thread_state.cache, Parked::kIdle)) << "perhaps a thread starts yet";
  EXPECT_EQ(cache->use.load(), ThreadCache::Use::kParked);
  test::let_a_second_pass();
  EXPECT_TRUE(release_parked(thread_state.cache, Parked::kIdle));
  EXPECT_EQ(cache->use.load(), ThreadCache::Use::kFree);
  EXPECT_EQ(in_bin(cache), 0u);
}

TEST_F(ParkedTest, AThreadGetsTheOneOfItsProcessor) {
  // Neither ends before both have what they need, or the second would go on with the cache of the first, or empty it.
  ThreadCache* caches[2]{};
  std::barrier both(2);
  test::run_threads(2, [&](uint32_t thread) {
    if (move_to(thread)) {
      use(10);
      caches[thread] = thread_state.cache;
    }
    both.arrive_and_wait();
  });
  if (caches[0] == nullptr || caches[1] == nullptr) GTEST_SKIP() << "there is one processor";
  for (uint32_t thread : {0u, 1u}) {
    run_in_thread([&] {
      ASSERT_TRUE(move_to(thread));
      use(1);
      EXPECT_EQ(thread_state.cache, caches[thread]);
    });
  }
}

TEST_F(ParkedTest, AChildHasThem) {
  ThreadCache* cache = use_in_thread(10);
  pid_t child = fork();
  if (child == 0) {
    bool is_next = use_in_thread(20) == cache;
    flush_thread_cache();
    _exit(is_next && count_parked() == 0 && in_bin(cache) == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(cache->use.load(), ThreadCache::Use::kParked);
}

}  // namespace
}  // namespace hakmem
