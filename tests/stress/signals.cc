// Signal handlers that do only what a handler may do interrupt calls of the
// allocator at any instruction, on ordinary and on alternate stacks.
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/time.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/stress/content.h"

namespace stress {
namespace {

std::atomic<size_t> signals_seen{0};
sem_t semaphore;
int ends[2];

// Only calls of signal-safety(7), with errno kept.
void handler(int, siginfo_t*, void*) {
  int saved = errno;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  char byte = 's';
  if (write(ends[1], &byte, 1) == 1) CHECK(read(ends[0], &byte, 1) == 1);
  sem_post(&semaphore);
  sem_trywait(&semaphore);
  signals_seen.fetch_add(1, std::memory_order_relaxed);
  errno = saved;
}

void allocate_for(double seconds, uint64_t seed) {
  Random random(seed);
  struct {
    void* address;
    size_t size;
    uint64_t tag;
  } blocks[400] = {};
  double end = now_seconds() + seconds;
  for (uint64_t i = 1; i % 64 != 0 || now_seconds() < end; ++i) {
    auto& block = blocks[random.below(400)];
    if (block.address != nullptr) {
      check_content(block.address, block.size, block.tag);
      if (random.below(4) == 0) {
        size_t size = random.log_uniform_size(13);
        block.address = realloc(block.address, size);
        CHECK(block.address != nullptr);
        check_content(block.address, size, block.tag, block.size);
      }
      free(block.address);
    }
    size_t size = random.log_uniform_size(random.below(64) == 0 ? 22 : 13);
    block = {malloc(size), size, i};
    CHECK(block.address != nullptr);
    fill_content(block.address, size, i);
  }
  for (auto& block : blocks) {
    if (block.address == nullptr) continue;
    check_content(block.address, block.size, block.tag);
    free(block.address);
  }
}

void install(int flags) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_RESTART | flags;
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
}

void timer_on_main_thread() {
  itimerval timer{{0, 200}, {0, 200}};
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
  allocate_for(1.5, 1);
  timer = {};
  CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
  CHECK_OP(signals_seen.load(), >, size_t{200});
}

void signals_to_threads() {
  std::vector<std::thread> threads;
  std::atomic<size_t> running{4};
  size_t before = signals_seen;
  for (size_t i = 0; i < 4; ++i) {
    threads.emplace_back([i, &running] {
      // An alternate stack that is a block of the allocator itself.
      size_t stack_bytes = 32 * kKiB;
      stack_t stack{malloc(stack_bytes), 0, stack_bytes};
      CHECK(sigaltstack(&stack, nullptr) == 0);
      allocate_for(1.5, i + 10);
      stack_t off{nullptr, SS_DISABLE, 0};
      CHECK(sigaltstack(&off, nullptr) == 0);
      --running;
      free(stack.ss_sp);
    });
  }
  while (running > 0) {
    // A thread that has ended cannot be joined by the loop below before this one.
    for (std::thread& thread : threads) pthread_kill(thread.native_handle(), SIGUSR1);
    usleep(300);
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_OP(signals_seen.load(), >, before + 200);
}

}  // namespace
}  // namespace stress

int main() {
  using namespace stress;
  require_hakmem();
  CHECK(pipe(ends) == 0);
  CHECK(sem_init(&semaphore, 0, 0) == 0);
  install(0);
  timer_on_main_thread();
  install(SA_ONSTACK);
  signals_to_threads();
  return passed("signals");
}
