// fork() while another thread is inside one of the allocator's locks.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "allocator/api/allocator.h"
#include "allocator/api/statistics.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/lifetime.h"
#include "allocator/thread_cache/private_thread.h"
#include "allocator/thread_cache/sampling.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"

namespace hakmem {
namespace {

// What the child does with the allocator: it goes through every lock, and adopts what the
// other thread owned, which may have been stopped in the middle of a change outside of any
// lock. Returns the exit status.
int work_in_child() {
  static unsigned char* blocks[3000];
  for (uint32_t i = 0; i < 3000; ++i) {
    size_t bytes = i % 100 == 0 ? i * 2000 : i;
    blocks[i] = static_cast<unsigned char*>(allocate(bytes));
    if (blocks[i] == nullptr) return 1;
    memset(blocks[i], static_cast<int>(i & 255), bytes);
  }
  for (uint32_t i = 0; i < 3000; ++i) {
    if (i != 0 && blocks[i][i - 1] != static_cast<unsigned char>(i)) return 2;
    free(blocks[i]);
  }
  flush_thread_cache();
  purge_all();
  if (kBuild.stats && private_heap.open()) {
    private_heap.free(private_heap.allocate(100, 16));
    if (!private_heap.is_consistent()) return 4;
  }
  return heap_is_consistent() ? 0 : 3;
}

// What a thread does to be inside the lock of a rank, for an instant at least.
void enter(LockRank rank) {
  switch (rank) {
    case LockRank::kThreadRegistry: {  // otherwise only by threads that start and end
      LockGuard guard(registry_lock);
      break;
    }
    case LockRank::kSharedPool: {  // a part-full slab goes there and back
      [[maybe_unused]] static void* const live = allocate(256);
      free(allocate(256));
      flush_thread_cache();
      break;
    }
    case LockRank::kSamples: {
      test::SampleInterval interval(16);
      free(allocate(100));
      break;
    }
    case LockRank::kSuperslabs: free(allocate(300 * kKiB)); break;
    case LockRank::kHuge: free(allocate(3 * kMiB)); break;
    case LockRank::kPageArena: heap.arena.allocate_metadata(16); break;
    case LockRank::kPrivateHeap:
      if (private_heap.open()) private_heap.free(private_heap.allocate(100, 16));
      break;
    case LockRank::kCount: break;
  }
}

RankedLock& lock_of(LockRank rank) {
  switch (rank) {
    case LockRank::kThreadRegistry: return registry_lock;
    case LockRank::kSharedPool: return heap.pool.lock();
    case LockRank::kSamples: return sampled_slabs.lock;
    case LockRank::kSuperslabs: return heap.superslabs.lock();
    case LockRank::kHuge: return heap.huge.lock();
    case LockRank::kPrivateHeap: return private_heap.lock();
    default: return heap.arena.lock();
  }
}

// A thread that a signal stops inside a lock. It is sent again and again, and returns
// at once where the thread is not inside.
class ThreadInsideLock {
 public:
  explicit ThreadInsideLock(LockRank rank) {
    wanted = &lock_of(rank);
    released = is_inside = false;
    struct sigaction action {};
    action.sa_handler = stand_inside;
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGUSR1, &action, nullptr);
    thread_ = std::thread([this, rank] {
      while (!stop_.load()) enter(rank);
    });
    while (!is_inside.load()) {
      ::pthread_kill(thread_.native_handle(), SIGUSR1);
      ::usleep(20);
    }
  }
  ~ThreadInsideLock() {
    release();
    thread_.join();
    ::signal(SIGUSR1, SIG_DFL);
  }
  ThreadInsideLock(const ThreadInsideLock&) = delete;
  ThreadInsideLock& operator=(const ThreadInsideLock&) = delete;

  void release() {
    stop_ = true;
    released = true;
  }

 private:
  static void stand_inside(int) {
    if (!wanted->is_mine()) return;
    is_inside = true;
    while (!released.load()) continue;
  }

  static inline RankedLock* wanted;
  static inline std::atomic<bool> is_inside{false}, released{false};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Whether a thread sleeps in the kernel until the lock is given back.
bool waits_for(pid_t thread, const RankedLock& lock) {
  char path[64], text[64] = {}, expected[64];
  ::snprintf(path, sizeof path, "/proc/self/task/%d/syscall", thread);
  ::snprintf(expected, sizeof expected, "%d %p ", SYS_futex, static_cast<const void*>(&lock));
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd < 0 ? -1 : ::read(fd, text, sizeof text - 1);
  ::close(fd);
  return length > 0 && ::strncmp(text, expected, ::strlen(expected)) == 0;
}

class ForkInsideLock : public testing::TestWithParam<uint32_t> {};

// The fork waits until the section is at an end, whichever lock it is.
TEST_P(ForkInsideLock, WaitsForTheThreadThatIsInside) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "the sanitizer delays signals";
  auto rank = static_cast<LockRank>(GetParam());
  if (rank == LockRank::kSamples && !kBuild.stats) GTEST_SKIP() << "nothing is sampled in this build";
  if (rank == LockRank::kPrivateHeap && !kBuild.stats) GTEST_SKIP() << "no thread is private in this build";
  test::start_process();
  std::atomic<pid_t> forking{0}, child{0};
  std::thread forker;
  {
    ThreadInsideLock inside(rank);
    forker = std::thread([&] {
      forking = ::gettid();
      pid_t pid = ::fork();
      if (pid == 0) {
        ::alarm(60);
        ::_exit(work_in_child());
      }
      child = pid;
    });
    while (forking.load() == 0 || !waits_for(forking.load(), lock_of(rank))) std::this_thread::yield();
    EXPECT_EQ(child.load(), 0) << "forked in the middle of the section";
    inside.release();
    forker.join();
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child.load(), &status, 0), child.load());
  EXPECT_EQ(status, 0);
}

INSTANTIATE_TEST_SUITE_P(EachLock, ForkInsideLock, testing::Range(0u, static_cast<uint32_t>(LockRank::kCount)));

}  // namespace
}  // namespace hakmem
