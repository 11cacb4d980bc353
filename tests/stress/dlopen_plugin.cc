// A library that dlopen_loop loads and unloads: C++ static objects, thread-local
// objects, constructors and destructors, all of them allocating.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/stress/content.h"

namespace stress {
namespace {

struct Registry {
  std::map<int, std::string> entries;
  std::vector<std::unique_ptr<std::string>> pointers;
  Registry() {
    for (int i = 0; i < 300; ++i) {
      entries[i] = std::string(static_cast<size_t>(i), 'p');
      pointers.push_back(std::make_unique<std::string>(static_cast<size_t>(i), 'q'));
    }
  }
  ~Registry() {
    for (int i = 0; i < 300; ++i) CHECK(entries[i] == std::string(static_cast<size_t>(i), 'p'));
  }
};
Registry registry;

// Large enough that the loader allocates the block of each thread when it is first used.
thread_local char dynamic_tls[3000];
struct OfThread {
  std::vector<std::string> strings;
  ~OfThread() {
    for (std::string& string : strings) CHECK(string == std::string(string.size(), 't'));
  }
};
thread_local OfThread of_thread;

void* constructed;
__attribute__((constructor)) void construct() {
  constructed = malloc(70000);
  fill_content(constructed, 70000, 5);
}
__attribute__((destructor)) void destroy() {
  check_content(constructed, 70000, 5);
  free(constructed);
}

}  // namespace

// Uses the thread-local memory of the calling thread; returns a block for the
// caller to free, perhaps after the library is gone.
extern "C" __attribute__((visibility("default"))) void* plugin_work(size_t size) {
  memset(opaque(&dynamic_tls[0]), 1, sizeof dynamic_tls);
  registry.entries[static_cast<int>(size % 300)] = std::string(size % 300, 'p');
  void* block = malloc(size);
  fill_content(block, size, size);
  return block;
}

// Leaves strings in a thread_local object: the library stays loaded until the thread ends.
extern "C" __attribute__((visibility("default"))) void plugin_keep_in_thread() {
  for (size_t i = 0; i < 50; ++i) of_thread.strings.emplace_back(i * 9, 't');
}

}  // namespace stress
