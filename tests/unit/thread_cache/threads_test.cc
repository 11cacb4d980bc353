// Threads that allocate, free each other's blocks, end, and free after their end.
#include <gtest/gtest.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include <algorithm>
#include <barrier>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/api/statistics.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/bin.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::LiveCounts;
using test::Mailbox;
using test::rounds;
using test::run_in_thread;
using test::run_threads;
using test::ShadowHeap;

constexpr uint32_t kThreads = 4;

// Every thread works on its own blocks and on those that others send it; while
// all stand still, `check` is called.
template <class Check>
void run_models(std::vector<std::unique_ptr<ShadowHeap>>& models, uint32_t quiet_points, uint32_t steps, Check check) {
  test::start_process();
  std::vector<Mailbox> mailboxes(models.size());
  std::barrier barrier(static_cast<std::ptrdiff_t>(models.size()));
  run_threads(static_cast<uint32_t>(models.size()), [&](uint32_t thread) {
    ShadowHeap& shadow = *models[thread];
    for (uint32_t point = 0; point < quiet_points; ++point) {
      for (uint32_t i = 0; i < steps; ++i) {
        shadow.step();
        if (!shadow.empty()) mailboxes[shadow.random().below(static_cast<uint32_t>(models.size()))].put(shadow.give());
        if (i % 16 == 0) mailboxes[thread].empty_into(shadow);
      }
      barrier.arrive_and_wait();
      mailboxes[thread].empty_into(shadow);
      barrier.arrive_and_wait();
      if (thread == 0) check();
      barrier.arrive_and_wait();
    }
  });
}

LiveCounts live_of(const std::vector<std::unique_ptr<ShadowHeap>>& models) {
  LiveCounts live{};
  for (auto& model : models) model->count_live(live);
  return live;
}

std::vector<std::unique_ptr<ShadowHeap>> make_models(uint32_t count, uint64_t seed, ShadowHeap::Limits limits) {
  std::vector<std::unique_ptr<ShadowHeap>> models;
  for (uint32_t i = 0; i < count; ++i) models.push_back(std::make_unique<ShadowHeap>(seed * 100 + i, limits));
  return models;
}

class ThreadsTest : public testing::TestWithParam<uint64_t> {};

TEST_P(ThreadsTest, BlocksWanderBetweenThreads) {
  auto models = make_models(kThreads, GetParam(), {.log2_max_bytes = 20, .max_blocks = 300, .max_bytes = 16 * kMiB});
  run_models(models, 3, rounds(2000), [&] { test::expect_books_balance(live_of(models)); });
  test::expect_books_balance(live_of(models));  // and when all have ended
  for (auto& model : models) model->free_all();
  test::expect_books_balance({});
}

TEST_P(ThreadsTest, SmallBlocksWanderAndAreSampled) {
  test::SampleInterval interval(8192);
  auto models = make_models(kThreads, GetParam(), {.log2_max_bytes = 9, .max_blocks = 4000, .max_bytes = 16 * kMiB});
  run_models(models, 3, rounds(12000), [&] { test::expect_books_balance(live_of(models)); });
  for (auto& model : models) model->free_all();
  test::expect_books_balance({});
}

INSTANTIATE_TEST_SUITE_P(Seeds, ThreadsTest, testing::Values(1, 2));

// Producers and consumers: whoever frees a block never allocated in its slab.
TEST(Threads, ConsumersGiveMemoryBackToProducers) {
  test::start_process();
  constexpr uint32_t kBlocks = 2000;
  std::vector<void*> blocks(kBlocks);
  std::barrier barrier(2);
  run_threads(2, [&](uint32_t thread) {
    for (uint32_t round = 0; round < rounds(100); ++round) {
      if (thread == 0)
        for (void*& block : blocks) memset(block = allocate(200), 1, 200);
      barrier.arrive_and_wait();
      if (thread == 1)
        for (void* block : blocks) free(block);
      barrier.arrive_and_wait();
    }
  });
  test::expect_books_balance({});
  EXPECT_LE(test::committed_superslabs(), 3 + test::rounds(4)) << "memory was not used again";
}

TEST(Threads, SlabsOfEndedThreadsAreUsedAgain) {
  test::start_process();
  constexpr uint32_t kGenerations = 60, kBlocks = 5000;
  std::vector<void*> survivors;
  uint64_t first = 0;
  for (uint32_t generation = 0; generation < kGenerations; ++generation) {
    run_in_thread([&] {
      std::vector<void*> blocks;
      for (uint32_t i = 0; i < kBlocks; ++i) blocks.push_back(allocate(256));
      // One block of each slab or so survives its thread, until the next generation has ended.
      for (uint32_t i = 0; i < kBlocks; ++i)
        if (i % 64 != 0) free(blocks[i]);
      for (void* survivor : survivors) free(survivor);
      survivors.clear();
      for (uint32_t i = 0; i < kBlocks; i += 64) survivors.push_back(blocks[i]);
    });
    if (generation % 2 == 0) flush_thread_cache();  // else the next one has the cache as it was left
    if (generation == 4) first = test::committed_superslabs();
  }
  EXPECT_LE(test::committed_superslabs(), first + 1);
  if (kBuild.stats) {
    EXPECT_GT(test::counter<metrics::Metric::kSlabAdoptions>(), 0u);
  }
  for (void* survivor : survivors) free(survivor);
  test::expect_books_balance({});
}

// While others live, too: no slab goes to the pool before its last block has come back.
TEST(Threads, ABurstIsFreedIntoSlabsOfTheThreadItself) {
  test::start_process();
  test::SampleInterval none(0);
  test::OtherThread idle([] { free(allocate(16)); });
  constexpr size_t kBytes = 100;
  const uint32_t size_class = size_class_of(kBytes);
  std::vector<void*> blocks(size_t{20} * kClassShapes[size_class].capacity);
  for (int round = 0; round < 3; ++round) {
    for (void*& block : blocks) block = allocate(kBytes);
    EXPECT_TRUE(thread_state.cache->classes[size_class].allocates());
    std::reverse(blocks.begin(), blocks.end());
    for (void* block : blocks) {
      ASSERT_NE(heap.superslabs.find(reinterpret_cast<uintptr_t>(block))->owner.load(), owner::kPooled);
      free(block);
    }
  }
}

TEST(Threads, TheNextThreadWithACacheDoesNotCountAsTheOneThatTookSlabs) {
  test::start_process();
  constexpr size_t kBytes = 100;
  const uint32_t size_class = size_class_of(kBytes);
  std::vector<void*> blocks(size_t{5} * kClassShapes[size_class].capacity);
  const ThreadCache* first = nullptr;
  std::thread([&] {
    for (void*& block : blocks) block = allocate(kBytes);
    first = thread_state.cache;
    EXPECT_GE(first->classes[size_class].taken, 5u);
  }).join();
  flush_thread_cache();
  std::thread([&] {
    free(blocks.back());
    EXPECT_EQ(thread_state.cache, first);
    EXPECT_FALSE(thread_state.cache->classes[size_class].allocates());
  }).join();
  blocks.pop_back();
  for (void* block : blocks) free(block);
}

// One block of each slab that comes back makes it the slab of who frees it. A thread that is alone
// keeps all of these; with others it leaves what it does not need to them.
TEST(Threads, WhatAThreadKeptAloneIsLeftToOthers) {
  test::start_process();
  test::SampleInterval none(0);
  constexpr size_t kBytes = 1000;
  const ClassShape& shape = kClassShapes[size_class_of(kBytes)];
  const size_t slabs = 8 * kMiB / (shape.units * kUnitBytes) + 60;
  std::map<const Slab*, std::vector<void*>> by_slab;
  auto slab_at = [](void* block) { return heap.superslabs.find(reinterpret_cast<uintptr_t>(block)); };
  for (size_t i = 0; i < slabs * shape.capacity; ++i) {
    void* block = allocate(kBytes);
    by_slab[slab_at(block)].push_back(block);
  }
  auto free_all_but = [&](size_t kept, size_t first, size_t end) {
    size_t number = 0;
    for (auto& [slab, blocks] : by_slab) {
      if (number >= first && number < end)
        for (; blocks.size() > kept; blocks.pop_back()) free(blocks.back());
      ++number;
    }
  };
  auto owned = [&] {
    size_t count = 0;
    for (auto& [slab, blocks] : by_slab) count += slab->owner.load() == thread_state.cache->tag() ? 1 : 0;
    return count;
  };
  free_all_but(shape.capacity - 1, 0, slabs - 40);
  // But for those whose block still waits in the thread's bin.
  EXPECT_GT(owned(), slabs - 40 - 2 * kBinShapes[size_class_of(kBytes)].capacity);
  free_all_but(1, 0, 30);
  size_t kept_alone = owned();

  test::OtherThread other([&] {
    free_all_but(0, 0, 10);
    flush_thread_cache();
  });
  free_all_but(0, slabs - 40, SIZE_MAX);
  EXPECT_LT(owned(), kept_alone - 15);
  uint64_t committed = test::committed_superslabs();
  other.run([&] {
    for (size_t i = 0; i < 15 * shape.capacity; ++i) by_slab.begin()->second.push_back(allocate(kBytes));
  });
  EXPECT_EQ(test::committed_superslabs(), committed) << "what is left is used";
  free_all_but(0, 0, SIZE_MAX);
  test::expect_books_balance({});
}

// Caches that threads have.
uint32_t caches_of_threads() {
  uint32_t count = 0;
  metrics::heap_view.visit_threads(
      [](void* argument, const metrics::ThreadCacheView& cache) {
        *static_cast<uint32_t*>(argument) += cache.is_thread ? 1 : 0;
      },
      &count);
  return count;
}

TEST(Threads, CachesOfEndedThreadsAreUsedAgain) {
  free(allocate(16));  // this thread has one
  uint32_t before = caches_of_threads();
  ThreadCache* used = nullptr;
  for (int i = 0; i < 50; ++i)
    run_in_thread([&] {
      free(allocate(16));
      EXPECT_TRUE(used == nullptr || used == thread_state.cache);
      used = thread_state.cache;
      EXPECT_EQ(caches_of_threads(), before + 1);
    });
  EXPECT_EQ(caches_of_threads(), before);
}

TEST(Threads, AllocatingBlocksThatOthersOwnToTheEnd) {
  // Blocks of a living thread, of one that has ended, and of one that has only frees left.
  std::vector<void*> blocks;
  run_in_thread([&] {
    for (int i = 0; i < 3000; ++i) blocks.push_back(allocate(48));
  });
  run_threads(3, [&](uint32_t thread) {
    for (size_t i = thread; i < blocks.size(); i += 3) free(blocks[i]);
  });
  test::expect_books_balance({});
}

// The destructor of a thread-specific key that asks for every round there is: in the last one, and where it
// comes after the allocator's own in the one before, the allocator has ended the thread.
struct Late {
  std::vector<void*> blocks;
  void* left = nullptr;
  int round = 0;
  bool was_ended = false;
};
pthread_key_t late_key;

void late_destructor(void* argument) {
  auto* late = static_cast<Late*>(argument);
  if (++late->round < PTHREAD_DESTRUCTOR_ITERATIONS) {
    free(allocate(100));
    if (late->round < PTHREAD_DESTRUCTOR_ITERATIONS - 1) {
      EXPECT_EQ(thread_state.phase, ThreadPhase::kRunning) << "other destructors find a thread that is alive";
    }
    pthread_setspecific(late_key, late);
    return;
  }
  late->was_ended = thread_state.phase == ThreadPhase::kExited && thread_state.cache == &empty_cache;
  for (void* block : late->blocks) free(block);
  for (int i = 0; i < 1000; ++i) {
    auto* block = static_cast<char*>(allocate(static_cast<size_t>(i)));
    memset(block, 3, static_cast<size_t>(i));
    free(block);
  }
  free(allocate_zeroed(1, 3 * kMiB));
  free(allocate_zeroed(1, 500 * kKiB));
  free(reallocate(allocate(100), 100000));
  late->left = allocate(77);
  memset(late->left, 7, 77);
  EXPECT_EQ(thread_state.cache, &empty_cache);
}

TEST(Threads, AfterTheirEndTheyStillAllocateAndFree) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "the sanitizer has ended the thread by then";
  free(allocate(1));  // the allocator's own key comes first
  ASSERT_EQ(pthread_key_create(&late_key, late_destructor), 0);
  for (uint32_t round = 0; round < 5; ++round) {
    std::vector<Late> lates(kThreads);
    run_threads(kThreads, [&](uint32_t thread) {
      for (int i = 0; i < 500; ++i) lates[thread].blocks.push_back(allocate(static_cast<size_t>(i * 7)));
      pthread_setspecific(late_key, &lates[thread]);
    });
    for (Late& late : lates) {
      EXPECT_TRUE(late.was_ended);
      EXPECT_EQ(static_cast<char*>(late.left)[76], 7);
      free(late.left);
    }
    test::expect_books_balance({});
  }
  pthread_key_delete(late_key);
}

// A thread whose very first call comes from such a destructor, after the place of the allocator's own.
TEST(Threads, TheFirstCallMayBeALateOne) {
  free(allocate(1));  // the allocator's own key comes first
  pthread_key_t key;
  ASSERT_EQ(pthread_key_create(&key, [](void* argument) { free(argument); }), 0);
  uint32_t before = caches_of_threads();
  for (int i = 0; i < 3; ++i) {
    void* block = allocate(1000);
    run_in_thread([&] { pthread_setspecific(key, block); });
    EXPECT_EQ(caches_of_threads(), before) << "a thread that has ended keeps its cache";
  }
  pthread_key_delete(key);
  test::expect_books_balance({});
}

}  // namespace
}  // namespace hakmem
