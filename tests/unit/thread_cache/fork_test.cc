// fork() from a process whose other threads are in the middle of anything.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/api/statistics.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/random.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::rounds;
using test::ShadowHeap;

// What the child does with the allocator, without the C library's own malloc,
// whose locks another thread may have held. Returns the exit status.
int work_in_child(void* from_parent) {
  free(from_parent);
  constexpr uint32_t kBlocks = 3000;
  static unsigned char* blocks[kBlocks];
  for (uint32_t round = 0; round < 3; ++round) {
    for (uint32_t i = 0; i < kBlocks; ++i) {
      size_t bytes = (i * 37 + round) % 3000 + (i % 500 == 0 ? 400000 : 0);
      blocks[i] = static_cast<unsigned char*>(i % 3 == 0 ? allocate_zeroed(1, bytes) : allocate(bytes));
      if (blocks[i] == nullptr) return 1;
      if (i % 3 == 0 && !test::is_zero(blocks[i], bytes)) return 2;
      memset(blocks[i], static_cast<int>(i & 255), bytes);
    }
    for (uint32_t i = 0; i < kBlocks; ++i) {
      size_t bytes = (i * 37 + round) % 3000 + (i % 500 == 0 ? 400000 : 0);
      for (size_t at = 0; at < bytes; at += 61)
        if (blocks[i][at] != static_cast<unsigned char>(i)) return 3;
      free(blocks[i]);
    }
  }
  purge_all();
  return 0;
}

TEST(Fork, ChildrenOfABusyProcessCanAllocate) {
  test::start_process();
  constexpr uint32_t kThreads = 3;
  std::atomic<bool> stop{false};
  std::atomic<bool> busy{true};
  std::atomic<uint32_t> steps{0};
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&, thread] {
      ShadowHeap shadow(thread, {.log2_max_bytes = 20, .max_blocks = 500, .max_bytes = 8 * kMiB});
      while (!stop.load()) {
        busy.wait(false);
        shadow.step();
        steps.fetch_add(1);
      }
      shadow.free_all();
    });
  for (uint32_t i = 0; i < rounds(40); ++i) {
    void* block = allocate(100 + i * 1000);
    for (uint32_t before = steps.load(); steps.load() - before < 100;) std::this_thread::yield();
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) ::_exit(work_in_child(block));
    busy = false;  // the child has what it has; the threads would only keep it from the cores
    free(block);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    busy = true;
    busy.notify_all();
    ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    ASSERT_EQ(WEXITSTATUS(status), 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  test::expect_books_balance({});
}

// The slabs of threads that do not exist in the child are used there.
TEST(Fork, ChildrenAdoptTheSlabsOfOtherThreads) {
  test::start_process();
  constexpr uint32_t kBlocks = 40000;
  std::atomic<bool> stop{false};
  std::atomic<bool> ready{false};
  std::thread other([&] {
    std::vector<void*> blocks;
    for (uint32_t i = 0; i < kBlocks; ++i) blocks.push_back(allocate(512));
    for (uint32_t i = 0; i < kBlocks; ++i)
      if (i % 16 != 0) free(blocks[i]);
    ready = true;
    while (!stop.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (uint32_t i = 0; i < kBlocks; i += 16) free(blocks[i]);
  });
  while (!ready.load()) std::this_thread::yield();
  uint64_t before = test::committed_superslabs();
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    static void* blocks[kBlocks];
    for (uint32_t i = 0; i < kBlocks * 3 / 4; ++i) blocks[i] = allocate(512);
    // All of it fits into what the other thread freed.
    uint64_t grown = test::committed_superslabs() - before;
    for (uint32_t i = 0; i < kBlocks * 3 / 4; ++i) free(blocks[i]);
    ::_exit(grown <= 2 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the child took fresh memory";
  stop = true;
  other.join();
  test::expect_books_balance({});
}

// Forks and expects that the child's work returns 0.
template <class Work>
void expect_in_child(Work work) {
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(work());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  ASSERT_EQ(WEXITSTATUS(status), 0);
}

// Of no class that the tests use, and no sample, so that the child has to look for
// memory, and adopts what the parent's other threads had.
void* allocate_and_adopt() {
  test::SampleInterval interval(0);
  return allocate(200 * kKiB);
}

// Nothing is lost of what waited in the bins of threads that stood still: in the
// child the books balance, and when all is freed no slab is left.
TEST(Fork, ChildrenAdoptTheBinsOfOtherThreads) {
  constexpr uint32_t kThreads = 4;
  test::SampleInterval interval(4000);  // in some bins samples are due
  test::start_process();
  test::OtherThread threads[kThreads];
  static void* live[50000];
  static uint32_t live_count = 0;
  test::Random random(3);
  for (uint32_t round = 0; round < 3 * kThreads; ++round)
    threads[round % kThreads].run([&] {
      for (uint32_t i = 0; i < 3000; ++i) live[live_count++] = allocate(random.log_uniform(14));
      // Its own and those of others.
      while (live_count > 1000 + round) {
        std::swap(live[random.below(live_count)], live[live_count - 1]);
        free(live[--live_count]);
      }
    });
  test::LiveCounts counts{};
  for (uint32_t i = 0; i < live_count; ++i) ++counts[test::class_of_block(live[i])];
  ASSERT_EQ(test::live_by_view(), counts);
  expect_in_child([&] {
    void* block = allocate_and_adopt();
    ++counts[test::class_of_block(block)];
    if (!heap_is_consistent()) return 1;
    if (test::live_by_view() != counts) return 2;
    free(block);
    for (uint32_t i = 0; i < live_count; ++i) free(live[i]);
    flush_thread_cache();
    return test::unsampled_slabs() == 0 ? 0 : 3;
  });
  while (live_count > 0) free(live[--live_count]);
}

// Or the thread that gets the cache next could keep fewer big blocks.
TEST(Fork, AdoptedCachesHoldNoBigBlocks) {
  test::start_process();
  const ThreadCache* cache = nullptr;
  test::OtherThread other([&] {
    void* blocks[8];
    for (void*& block : blocks) block = allocate(112 * kKiB);
    for (void* block : blocks) free(block);
    cache = thread_state.cache;
  });
  ASSERT_GT(cache->big_bytes, 0u);
  expect_in_child([&] {
    allocate_and_adopt();
    if (cache->use.load() == ThreadCache::Use::kOrphan) return 1;
    return cache->big_bytes == 0 ? 0 : 2;
  });
}

// Threads that a signal stops at any instruction of malloc and free.
class StoppedThreads {
 public:
  static constexpr uint32_t kThreads = 2, kBlocks = 6;
  static constexpr size_t kBytes[] = {48, 1040};

  StoppedThreads() {
    struct sigaction action {};
    action.sa_handler = stand_still;
    ::sigaction(SIGUSR1, &action, nullptr);
    for (uint32_t i = 0; i < kThreads; ++i) threads_.emplace_back([this, i] { work(i); });
    while (warm.load() < kThreads) std::this_thread::yield();
  }
  ~StoppedThreads() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    ::signal(SIGUSR1, SIG_DFL);
  }
  StoppedThreads(const StoppedThreads&) = delete;
  StoppedThreads& operator=(const StoppedThreads&) = delete;

  template <class Work>
  void while_stopped(Work work) {
    for (std::thread& thread : threads_) ::pthread_kill(thread.native_handle(), SIGUSR1);
    while (standing.load() < kThreads) std::this_thread::yield();
    work();
    standing = 0;
    round.fetch_add(1);
  }

  // What the threads hold is still as they wrote it.
  bool is_whole() const {
    for (uint32_t i = 0; i < kThreads; ++i)
      for (uint32_t k = 0; k < kBlocks; ++k) {
        const unsigned char* block = held_[i][k].load();
        size_t bytes = kBytes[k % 2];
        if (block != nullptr && !std::all_of(block, block + bytes, [i](unsigned char c) { return c == i + 1; }))
          return false;
      }
    return true;
  }

 private:
  static void stand_still(int) {
    uint32_t now = round.load();
    standing.fetch_add(1);
    while (round.load() == now) continue;
  }

  void work(uint32_t thread) {
    test::Random random(thread);
    for (uint32_t i = 0; !stop_.load(); ++i) {
      if (i == 10000) warm.fetch_add(1);  // from here on no lock is taken
      uint32_t k = random.below(kBlocks);
      if (unsigned char* block = held_[thread][k].exchange(nullptr); block != nullptr) {
        free(block);
        continue;
      }
      auto* block = static_cast<unsigned char*>(allocate(kBytes[k % 2]));
      memset(block, static_cast<int>(thread + 1), kBytes[k % 2]);
      held_[thread][k].store(block);
    }
    for (auto& block : held_[thread]) free(block.load());
  }

  static inline std::atomic<uint32_t> warm{0}, standing{0}, round{0};
  std::atomic<bool> stop_{false};
  std::atomic<unsigned char*> held_[kThreads][kBlocks]{};
  std::vector<std::thread> threads_;
};

TEST(Fork, AChildForkedInTheMiddleOfMallocAndFreeFindsNoBlockTwice) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "the sanitizer delays signals";
  test::SampleInterval interval(0);
  test::start_process();
  StoppedThreads threads;
  for (uint32_t i = 0; i < (test::kSanitized ? 25 : 100) && !testing::Test::HasFailure(); ++i)
    threads.while_stopped([&] {
      expect_in_child([&] {
        allocate_and_adopt();
        for (size_t bytes : StoppedThreads::kBytes)
          for (int n = 0; n < 1000; ++n) memset(allocate(bytes), 0xEE, bytes);
        return threads.is_whole() ? 0 : 1;
      });
    });
}

TEST(Fork, GrandchildrenWork) {
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    pid_t grandchild = ::fork();
    if (grandchild == 0) ::_exit(work_in_child(allocate(10)));
    int status = 0;
    ::waitpid(grandchild, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace hakmem
