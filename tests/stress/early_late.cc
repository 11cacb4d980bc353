// The first calls come before any constructor, the last ones after the
// destructors: a function of .preinit_array, constructors of the lowest
// priority, atexit and at_quick_exit handlers, thread_local objects of main.
#include "tests/stress/early_late.h"

#include <pthread.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kEarly = 64;
void* preinit_blocks[kEarly];
void* constructor_blocks[kEarly];

size_t early_size(size_t i) { return i == 0 ? 4 * kMiB : i * i * 20 + 1; }

// Runs before the constructors of all libraries, the allocator's own included.
void allocate_before_constructors(int, char**, char**) {
  for (size_t i = 0; i < kEarly; ++i) {
    preinit_blocks[i] = i % 2 ? malloc(early_size(i)) : calloc(1, early_size(i));
    CHECK(preinit_blocks[i] != nullptr);
    fill_content(preinit_blocks[i], early_size(i), i);
  }
  for (size_t i = 1; i < kEarly; i += 2) {
    preinit_blocks[i] = realloc(preinit_blocks[i], early_size(i) * 2);
    check_content(preinit_blocks[i], early_size(i), i);
  }
}
__attribute__((section(".preinit_array"), used)) void (*preinit)(int, char**, char**) = allocate_before_constructors;

__attribute__((constructor(101))) void construct() {
  for (size_t i = 0; i < kEarly; ++i) {
    constructor_blocks[i] = malloc(early_size(i));
    fill_content(constructor_blocks[i], early_size(i), i + 500);
  }
}

void free_early_blocks() {
  for (size_t i = 0; i < kEarly; ++i) {
    check_content(preinit_blocks[i], early_size(i), i);
    check_content(constructor_blocks[i], early_size(i), i + 500);
    free(preinit_blocks[i]);
    free(constructor_blocks[i]);
  }
}

__attribute__((destructor(101))) void destruct() {
  free_early_blocks();
  void* blocks[200];
  for (size_t i = 0; i < 200; ++i) blocks[i] = malloc(i * 100);
  for (void* block : blocks) free(block);
  write_mark("program destructor");
}

struct Static {
  std::vector<std::string> strings;
  Static() {
    for (size_t i = 0; i < 300; ++i) strings.emplace_back(i * 7, 's');
  }
  ~Static() {
    for (size_t i = 0; i < 300; ++i) CHECK(strings[i] == std::string(i * 7, 's'));
    strings.clear();
    write_mark("program static object");
  }
};
Static object;

struct OfThread {
  std::vector<std::string> strings;
  ~OfThread() {
    strings.clear();
    write_mark("thread_local object");
  }
};
thread_local OfThread of_thread;

void* kept_for_exit;
void at_exit_handler() {
  check_content(kept_for_exit, 50000, 1);
  free(kept_for_exit);
  // Threads may start and end even now.
  std::thread([] { std::vector<std::string> strings(1000, std::string(100, 'x')); }).join();
  write_mark("exit handler");
}

void use_memory() {
  kept_for_exit = malloc(50000);
  fill_content(kept_for_exit, 50000, 1);
  for (size_t i = 0; i < 300; ++i) of_thread.strings.emplace_back(i * 10, 't');
  free(block_of_library());
}

int run_mode(const char* mode) {
  use_memory();
  if (strcmp(mode, "return") == 0) {
    atexit(at_exit_handler);
    return 5;
  }
  if (strcmp(mode, "exit") == 0) {
    atexit(at_exit_handler);
    exit(6);
  }
  if (strcmp(mode, "quick_exit") == 0) {
    at_quick_exit(at_exit_handler);
    quick_exit(7);
  }
  if (strcmp(mode, "_exit") == 0) _exit(8);
  if (strcmp(mode, "exit in thread") == 0) {
    atexit(at_exit_handler);
    std::thread([] { exit(10); }).join();
  }
  return 3;
}

}  // namespace
}  // namespace stress

int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  if (argc > 1) return run_mode(argv[1]);
  const char* all =
      "thread_local object\nexit handler\nprogram static object\nprogram destructor\nlibrary static object\n"
      "library destructor\n";
  // The thread that calls exit has no thread_local object of ours.
  const char* in_thread =
      "exit handler\nprogram static object\nprogram destructor\nlibrary static object\nlibrary destructor\n";
  struct {
    const char* mode;
    int status;
    const char* output;
  } cases[] = {{"return", 5, all},
               {"exit", 6, all},
               {"quick_exit", 7, "exit handler\n"},
               {"_exit", 8, ""},
               {"exit in thread", 10, in_thread}};
  for (auto [mode, status, output] : cases) {
    ChildResult result = run_self(mode);
    if (!result.exited_with(status) || strcmp(result.output, output) != 0) {
      dprintf(2, "%s: wait status 0x%x instead of exit status %d, output:\n%s\ninstead of:\n%s\n", mode, result.status,
              status, result.output, output);
      return 1;
    }
  }
  return passed("early_late");
}
