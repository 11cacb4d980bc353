// Children that are made in other ways than by fork: _Fork and clone, which run no
// handlers, daemons, and children of children of those.
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr unsigned kChildSeconds = 60;  // a child that hangs is ended, and fails the test
constexpr size_t kKept = 200;
void* kept[kKept];

size_t kept_size(size_t i) { return i % 50 == 0 ? 2 * kMiB + i : i * 37 + 1; }

void make_kept() {
  for (size_t i = 0; i < kKept; ++i) {
    kept[i] = malloc(kept_size(i));
    CHECK(kept[i] != nullptr);
    fill_content(kept[i], kept_size(i), i);
  }
}

void free_kept() {
  for (size_t i = 0; i < kKept; ++i) {
    check_content(kept[i], kept_size(i), i);
    free(kept[i]);
  }
}

using Fork = pid_t (*)();

pid_t fork_by_clone() { return static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr)); }

// In a process with one thread such a child may do anything: it frees what its parent
// allocated, allocates, runs threads, and forks again, in the same way and by fork.
int life(Fork fork_again, int generations) {
  alarm(kChildSeconds);
  free_kept();
  make_kept();
  std::thread([] { std::vector<std::string>(2000, std::string(100, 'x')); }).join();
  if (generations > 0) {
    for (Fork way : {fork_again, static_cast<Fork>(fork)}) {
      pid_t child = way();
      CHECK(child >= 0);
      if (child == 0) _exit(life(fork_again, generations - 1));
      CHECK_OP(wait_for(child), ==, 0);
    }
  }
  free_kept();
  return 0;
}

void without_handlers(Fork way) {
  for (int i = 0; i < 6; ++i) {
    pid_t child = way();
    CHECK(child >= 0);
    if (child == 0) _exit(life(way, i == 0 ? 2 : 0));
    CHECK_OP(wait_for(child), ==, 0);
  }
}

// In one with several threads it may only run another program, as after vfork.
void without_handlers_among_threads(Fork way) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([t, &stop] {
      Random random(t);
      void* blocks[100] = {};
      while (!stop) {
        for (int i = 0; i < 300; ++i) {
          void*& block = blocks[random.below(100)];
          free(block);
          block = malloc(random.log_uniform_size(random.below(30) == 0 ? 21 : 12));
        }
        usleep(200);  // or the threads would take what the children need
      }
      for (void* block : blocks) free(block);
    });
  }
  for (int i = 0; i < 6; ++i) {
    pid_t child = way();
    CHECK(child >= 0);
    if (child == 0) {
      execl("/bin/true", "true", static_cast<char*>(nullptr));
      _exit(127);
    }
    free(malloc(5 * kMiB));
    CHECK_OP(wait_for(child), ==, 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

// A child that shares its parent's memory, and its malloc with it, as vfork's does, on a stack of its own.
int allocate_in_parents_memory(void* block) {
  memset(block, 7, 1000);
  void* other = malloc(20000);
  free(other);
  return other != nullptr ? 0 : 1;
}

void shared_memory() {
  std::vector<char> stack(256 * kKiB);
  for (int i = 0; i < 20; ++i) {
    void* block = malloc(1000);
    pid_t child =
        clone(allocate_in_parents_memory, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | SIGCHLD, block);
    CHECK(child > 0);
    CHECK_OP(wait_for(child), ==, 0);
    CHECK(static_cast<char*>(block)[999] == 7);
    free(block);
  }
}

// daemon(3) ends the process that calls it, so that is a child. The daemon says by a pipe that it works.
void daemons() {
  for (int i = 0; i < 3; ++i) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t caller = fork();
    CHECK(caller >= 0);
    if (caller == 0) {
      close(ends[0]);
      CHECK(daemon(0, 1) == 0);
      CHECK(life(fork_by_clone, 1) == 0);
      CHECK(write(ends[1], "w", 1) == 1);
      exit(0);
    }
    close(ends[1]);
    CHECK_OP(wait_for(caller), ==, 0);
    char said = 0;
    CHECK(read(ends[0], &said, 1) == 1 && said == 'w');
    CHECK(read(ends[0], &said, 1) == 0);  // the daemon has ended
    close(ends[0]);
  }
}

}  // namespace
}  // namespace stress

int main() {
  using namespace stress;
  require_hakmem();
  make_kept();
  without_handlers(_Fork);
  without_handlers(fork_by_clone);
  shared_memory();
  daemons();
  without_handlers_among_threads(_Fork);
  without_handlers_among_threads(fork_by_clone);
  free_kept();
  return passed("processes");
}
