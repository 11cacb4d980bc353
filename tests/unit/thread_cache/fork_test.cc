// fork() from a process whose other threads are in the middle of anything.
#include <gtest/gtest.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "allocator/api/allocator.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
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
  std::atomic<uint32_t> running{0};
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&, thread] {
      ShadowHeap shadow(thread, {.log2_max_bytes = 20, .max_blocks = 500, .max_bytes = 8 * kMiB});
      running.fetch_add(1);
      while (!stop.load()) shadow.step();
      shadow.free_all();
    });
  while (running.load() < kThreads) std::this_thread::yield();
  for (uint32_t i = 0; i < rounds(40); ++i) {
    void* block = allocate(100 + i * 1000);
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) ::_exit(work_in_child(block));
    free(block);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
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
