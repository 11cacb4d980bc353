// fork from a process whose threads allocate, free, map huge blocks, and start
// and end other threads without a pause. Each child allocates, frees its own and
// its parent's blocks, sometimes runs threads and forks again; a child that hangs
// on a lock is ended by an alarm and fails the test.
#include <pthread.h>
#include <spawn.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

extern char** environ;

namespace stress {
namespace {

constexpr size_t kWorkers = 8;
constexpr size_t kForks = 500;
constexpr double kEnoughSeconds = 5;
constexpr size_t kFewestForks = rounds(60, 3);
constexpr unsigned kChildAlarmSeconds = 30;
// Whether children start threads. The thread sanitizer still knows those of the parent, whose numbers come again;
// that of addresses has locks of its own, which others of the parent's threads hold at a fork.
constexpr bool kStartsThreads = !kSanitized;

// Blocks that each worker allocates at its start and leaves alone: children free them.
constexpr size_t kStable = 48;
struct Stable {
  void* address;
  size_t size;
  uint64_t tag;
};
Stable stable[kWorkers][kStable];

std::atomic<bool> stop{false};
std::atomic<size_t> ready{0};

void make_stable_blocks(size_t self) {
  Random random(self + 1);
  for (size_t i = 0; i < kStable; ++i) {
    size_t size = i == 0 ? 3 * kMiB : random.log_uniform_size(15);
    stable[self][i] = {malloc(size), size, self * 1000 + i};
    fill_content(stable[self][i].address, size, stable[self][i].tag);
  }
  ++ready;
}

void small_blocks(size_t self) {
  Random random(self * 77);
  void* blocks[300] = {};
  while (!stop) {
    size_t i = random.below(300);
    free(blocks[i]);
    blocks[i] = malloc(random.log_uniform_size(14));
    CHECK(blocks[i] != nullptr);
  }
  for (void* block : blocks) free(block);
}

void huge_blocks() {
  while (!stop) {
    void* block = malloc(5 * kMiB);
    block = realloc(block, 9 * kMiB);
    memset(block, 1, kMiB / 4);
    void* other = calloc(1, 3 * kMiB);
    free(block);
    free(other);
  }
}

void short_threads() {
  while (!stop) {
    std::thread([] {
      std::vector<std::string> strings;
      for (size_t i = 0; i < 40; ++i) strings.emplace_back(i * 20, 'x');
    }).join();
  }
}

// Keeps blocks moving between threads, so that remote frees are under way at a fork.
std::atomic<void*> exchange_slots[64];
void exchange_blocks(size_t self) {
  Random random(self * 31);
  while (!stop) free(exchange_slots[random.below(64)].exchange(malloc(random.log_uniform_size(12))));
}

void work(size_t self) {
  // Always busy, but children come first, or they would spend the test waiting for a core.
  CHECK(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10) == 0);
  make_stable_blocks(self);
  if (self == 0) return huge_blocks();
  if (self == 1) return short_threads();
  if (self < 5) return exchange_blocks(self);
  small_blocks(self);
}

void allocate_and_free(uint64_t seed) {
  Random random(seed);
  void* blocks[100];
  size_t sizes[100];
  for (size_t i = 0; i < 100; ++i) {
    sizes[i] = random.log_uniform_size(i % 20 == 0 ? 21 : 13);
    blocks[i] = malloc(sizes[i]);
    CHECK(blocks[i] != nullptr);
    fill_content(blocks[i], sizes[i], seed + i);
  }
  for (size_t i = 0; i < 100; ++i) {
    check_content(blocks[i], sizes[i], seed + i);
    free(blocks[i]);
  }
}

int child_life(size_t number, int depth) {
  alarm(kChildAlarmSeconds);
  allocate_and_free(number);
  for (size_t worker = 0; worker < kWorkers; ++worker) {
    for (size_t i = number % 2; i < kStable; i += 2) {
      Stable& block = stable[worker][i];
      check_content(block.address, block.size, block.tag);
      free(block.address);
    }
  }
  for (std::atomic<void*>& slot : exchange_slots) free(slot.exchange(nullptr));
  allocate_and_free(number + 1);
  if (number % 8 == 3 && kStartsThreads) {
    std::thread first([=] { allocate_and_free(number + 2); });
    std::thread second([=] { allocate_and_free(number + 3); });
    first.join();
    second.join();
  }
  if (number % 8 == 5 && depth == 0) {
    pid_t grandchild = fork();
    CHECK(grandchild >= 0);
    // Odd and even stable blocks: the other half is left for it.
    if (grandchild == 0) _exit(child_life(number + 1, depth + 1));
    CHECK(wait_for(grandchild) == 0);
    allocate_and_free(number + 4);
  }
  return 0;
}

// Handlers of the program that allocate: prepare runs before the allocator's
// own, parent and child after it, whoever registered first.
thread_local std::string* handler_text;  // several threads may fork at once
void prepare_handler() { handler_text = new std::string(200, 'p'); }
void after_handler() {
  CHECK(*handler_text == std::string(200, 'p'));
  delete handler_text;
  free(malloc(30000));
}
__attribute__((constructor(101))) void register_handlers() {
  CHECK(pthread_atfork(prepare_handler, after_handler, after_handler) == 0);
}

void reap(size_t& running) {
  int status = 0;
  pid_t child = wait(&status);
  CHECK(child > 0);
  if (status != 0) dprintf(2, "child %d ended with wait status 0x%x\n", child, status);
  CHECK(status == 0);
  --running;
}

void fork_children() {
  double start = now_seconds();
  size_t running = 0, forks = 0;
  for (; forks < kForks; ++forks) {
    if (forks >= kFewestForks && now_seconds() - start > kEnoughSeconds) break;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      int code = child_life(forks, 0);
      if (forks % 4 == 0) exit(code);  // with destructors and handlers
      _exit(code);
    }
    // The parent allocates, too, while the child lives.
    allocate_and_free(forks);
    if (++running == 4) reap(running);
  }
  while (running > 0) reap(running);
  printf("%zu forks in %.1f s\n", forks, now_seconds() - start);
}

// Not inlined: no variable of who calls it may be lost.
[[gnu::noinline]] pid_t start_by_vfork(char** arguments) {
  pid_t child = vfork();
  if (child == 0) {
    execv(arguments[0], arguments);
    _exit(127);
  }
  return child;
}

void spawn_programs() {
  char name[] = "/bin/true";
  char* arguments[] = {name, nullptr};
  constexpr int kPrograms = kSanitized ? 5 : 40;
  for (int i = 0; i < kPrograms; ++i) {
    pid_t child = 0;
    CHECK(posix_spawn(&child, name, nullptr, nullptr, arguments, environ) == 0);
    CHECK(wait_for(child) == 0);
    child = start_by_vfork(arguments);
    CHECK(child > 0);
    CHECK(wait_for(child) == 0);
    FILE* pipe = popen("echo spawned", "r");
    CHECK(pipe != nullptr);
    char line[32];
    CHECK(fgets(line, sizeof line, pipe) != nullptr && strcmp(line, "spawned\n") == 0);
    CHECK(pclose(pipe) == 0);
    allocate_and_free(static_cast<uint64_t>(i));
  }
}

// Without threads: a chain of children, each the parent of the next.
int generations(int left) {
  allocate_and_free(static_cast<uint64_t>(left));
  if (left == 0) return 0;
  void* block = malloc(10000);
  fill_content(block, 10000, 9);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    check_content(block, 10000, 9);
    free(block);
    _exit(generations(left - 1));
  }
  int status = wait_for(child);
  check_content(block, 10000, 9);
  free(block);
  return status == 0 ? 0 : 1;
}

// Several threads, which allocate as well, fork at the same time.
void forks_from_threads(size_t thread_count, size_t forks) {
  std::vector<std::thread> threads;
  for (size_t t = 0; t < thread_count; ++t) {
    threads.emplace_back([t, forks] {
      for (size_t i = 0; i < forks; ++i) {
        allocate_and_free(t * 100 + i);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
          alarm(kChildAlarmSeconds);
          allocate_and_free(i);
          if (kStartsThreads) std::thread([i] { allocate_and_free(i); }).join();
          _exit(0);
        }
        CHECK(wait_for(child) == 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace stress

// fork_storm [FORKS]: with a number, as many forks from 8 threads and nothing else.
int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  if (argc > 1) {
    size_t forks = strtoull(argv[1], nullptr, 10) / kWorkers;
    double start = now_seconds();
    forks_from_threads(kWorkers, forks);
    printf("%zu forks in %.1f s\n", forks * kWorkers, now_seconds() - start);
    return passed("fork_storm");
  }
  CHECK(generations(20) == 0);
  std::vector<std::thread> workers;
  for (size_t i = 0; i < kWorkers; ++i) workers.emplace_back(work, i);
  while (ready != kWorkers) sleep_milliseconds(1);
  fork_children();
  spawn_programs();
  forks_from_threads(3, rounds(20, 2));
  stop = true;
  for (std::thread& worker : workers) worker.join();
  for (auto& blocks : stable) {
    for (Stable& block : blocks) {
      check_content(block.address, block.size, block.tag);
      free(block.address);
    }
  }
  for (std::atomic<void*>& slot : exchange_slots) free(slot.exchange(nullptr));
  return passed("fork_storm");
}
