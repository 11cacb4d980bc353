// Signal handlers that interrupt malloc and free at any instruction, also where
// a lock of the allocator is held, and then fork, run another program or end the
// process, as signal-safety(7) lets them.
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr unsigned kChildSeconds = 60;  // a child that hangs is ended, and fails the test

std::atomic<size_t> handled{0}, wanted{0};

// Work that is inside the allocator's locks for much of its time: nothing that it asks
// for comes back from the bins of the thread alone.
struct Block {
  void* address = nullptr;
  size_t size = 0;  // of what is checked
};
constexpr size_t kBlocks = 60, kChecked = 256;

void change(Block& block, Random& random, uint64_t tag) {
  if (block.address != nullptr) {
    check_content(block.address, block.size, tag);
    free(block.address);
    block = {};
    return;
  }
  size_t size = random.below(3) == 0 ? 100 * kKiB + random.below(3 * kMiB) : random.log_uniform_size(15);
  block = {malloc(size), std::min(size, kChecked)};
  CHECK(block.address != nullptr);
  fill_content(block.address, block.size, tag);
}

template <class Condition>
void allocate_until(Condition is_enough, uint64_t seed) {
  Random random(seed);
  Block blocks[kBlocks];
  while (!is_enough()) {
    size_t i = random.below(kBlocks);
    change(blocks[i], random, i);
  }
  for (size_t i = 0; i < kBlocks; ++i) {
    if (blocks[i].address == nullptr) continue;
    check_content(blocks[i].address, blocks[i].size, i);
    free(blocks[i].address);
  }
}

void allocate_until_handled(uint64_t seed) {
  allocate_until([] { return handled >= wanted; }, seed);
}

void on_signal(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(number, &action, nullptr) == 0);
}

// The next signal comes some microseconds later, now in the one instruction, now in the
// other. No more than are wanted: on a busy machine the time is over before the thread
// runs again, and nothing would get done between one signal and the next.
void start_timer() {
  static std::atomic<unsigned> step{0};
  if (handled >= wanted) return;
  itimerval timer{{0, 0}, {0, static_cast<suseconds_t>(30 + step++ * 7 % 300)}};
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
}

void expect_success(pid_t child) {
  int saved = errno;
  CHECK(child > 0);
  CHECK_OP(wait_for(child), ==, 0);
  ++handled;
  errno = saved;
}

// -- one thread
// --------------------------------------------------------------------------------------------------------

void fork_and_end(int) {
  pid_t child = fork();
  if (child == 0) _exit(0);
  expect_success(child);
  start_timer();
}

void run_program() {
  pid_t child = fork();
  if (child == 0) {
    execl("/bin/true", "true", static_cast<char*>(nullptr));
    _exit(127);
  }
  expect_success(child);
}

void fork_and_run(int) {
  run_program();
  start_timer();
}

// The child of a process with one thread may go on where its parent was interrupted, as if nothing had happened.
volatile sig_atomic_t is_child = 0;
void fork_and_go_on(int) {
  pid_t child = fork();
  if (child == 0) {
    alarm(kChildSeconds);
    signal(SIGALRM, SIG_DFL);
    is_child = 1;
    ++handled;
    return;
  }
  expect_success(child);
  start_timer();
}

void interrupt_one_thread(void (*handler)(int), size_t count) {
  on_signal(SIGALRM, handler);
  wanted = handled + count;
  start_timer();
  allocate_until_handled(count);
}

// The child leaves the loop as if the signals were at an end: it frees all that was allocated on both sides of the
// fork.
void children_go_on() {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    interrupt_one_thread(fork_and_go_on, 1);
    if (is_child == 0) continue;
    handled = 0;
    std::thread([] {
      Random random(3);
      Block block;
      for (uint64_t i = 0; i < 100; ++i) change(block, random, 1);
    }).join();
    _exit(0);
  }
}

// -- several threads
// ---------------------------------------------------------------------------------------------------

std::atomic<size_t> forking{0};
void fork_from_thread(int) {
  run_program();
  --forking;
}

void interrupt_threads(size_t count) {
  constexpr size_t kThreads = 4;
  on_signal(SIGUSR1, fork_from_thread);
  std::vector<std::thread> threads;
  std::atomic<bool> done{false};
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([t, &done] {
      while (!done) allocate_until([&done, until = handled + 10] { return done || handled >= until; }, t);
    });
  }
  for (size_t i = 0; i < count; ++i) {
    // Two at once, so that one fork meets the other.
    forking = 2;
    for (size_t k = 0; k < 2; ++k) CHECK(pthread_kill(threads[(i + k) % kThreads].native_handle(), SIGUSR1) == 0);
    while (forking > 0) usleep(100);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
}

// -- the end of the process
// --------------------------------------------------------------------------------------------

void end_at_once(int) { _exit(7); }
void end_quickly(int) { quick_exit(7); }

void end_in_a_handler(void (*handler)(int)) {
  for (suseconds_t microseconds = 0; microseconds < 30; ++microseconds) {
    ChildResult result = run_in_child(
        [=] {
          on_signal(SIGALRM, handler);
          itimerval timer{{0, 0}, {0, 100 + microseconds * 41}};
          CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
          wanted = handled + 1;
          allocate_until_handled(5);
          return 1;
        },
        kChildSeconds);
    CHECK(result.exited_with(7));
  }
}

// What reports a crash forks in the handler of the signal that the allocator itself ended the process by.
void report_crash(int) {
  pid_t child = fork();
  if (child == 0) {
    execl("/bin/echo", "echo", "reported", static_cast<char*>(nullptr));
    _exit(127);
  }
  expect_success(child);
  _exit(8);
}

void reports_of_crashes() {
  ChildResult result = run_in_child([] {
    on_signal(SIGABRT, report_crash);
    void* volatile block = malloc(100);
    free(block);
    free(block);
    return 1;
  });
  CHECK(result.exited_with(8));
  CHECK(strstr(result.output, "double free") != nullptr && strstr(result.output, "reported\n") != nullptr);
}

}  // namespace
}  // namespace stress

int main() {
  using namespace stress;
  bool is_hakmem = require_hakmem();
  interrupt_one_thread(fork_and_end, 300);
  interrupt_one_thread(fork_and_run, 50);
  children_go_on();
  interrupt_threads(25);
  end_in_a_handler(end_at_once);
  end_in_a_handler(end_quickly);
  if (is_hakmem) reports_of_crashes();
  return passed("handlers");
}
