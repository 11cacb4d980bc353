// Constructors, destructors and exit handlers of many libraries, in many orders: the
// program runs itself once for each, with the libraries preloaded in that order or
// loaded by it, and ends by a return, by quick_exit or in a thread that outlives main.
#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace {

struct Place {
  void* address;
  size_t size;
  uint64_t tag;
};
// Zero before any constructor, and there after all destructors.
constexpr size_t kPlaces = 97;
Place places[kPlaces];
uint64_t exchanged = 0;
std::mutex exchange_lock;

}  // namespace

// Called by the libraries, whose threads may outlive their destructors: frees what stands
// in some places and puts new blocks there.
extern "C" void exchange_blocks(size_t number) {
  using namespace stress;
  std::lock_guard guard(exchange_lock);
  for (size_t i = 0; i < 60; ++i) {
    Place& place = places[(number * 31 + i * 7) % kPlaces];
    if (place.address != nullptr) check_content(place.address, place.size, place.tag);
    free(place.address);
    place = {nullptr, number % 7 == 3 && i == 0 ? 3 * kMiB : i * i * 9 + number, ++exchanged};
    place.address = malloc(place.size);
    CHECK(place.address != nullptr);
    fill_content(place.address, place.size, place.tag);
  }
}

namespace stress {
namespace {

constexpr int kOrders = 18;

// Loads the libraries and uses their thread-local objects, in this thread and in one that lives on.
void load(int count, char** libraries) {
  for (int i = 0; i < count; ++i) {
    void* library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) dprintf(2, "%s\n", dlerror());
    CHECK(library != nullptr);
    auto use = reinterpret_cast<size_t (*)()>(dlsym(library, "use_object_of_thread"));
    CHECK(use != nullptr && use() == 200);
    std::thread([use] { CHECK(use() == 200); }).detach();
    if (i % 3 == 2) CHECK(dlclose(library) == 0);
  }
}

enum End { kReturn, kQuickExit, kThread, kEnds };

int end(int how) {
  if (how == kQuickExit) quick_exit(0);
  if (how == kThread) {
    std::thread([] {
      exchange_blocks(1);
      exit(0);
    }).detach();
    pthread_exit(nullptr);
  }
  return 0;
}

// The program once more, which loads the libraries unless they are preloaded.
void run_in_order(std::vector<std::string> order, bool by_preload, int how) {
  ChildResult result = run_in_child([&] {
    std::string how_text = std::to_string(how);
    std::vector<char*> arguments{program_invocation_name, const_cast<char*>("load"), how_text.data()};
    if (by_preload) {
      std::string preload = getenv("LD_PRELOAD");
      for (const std::string& library : order) preload += ":" + library;
      setenv("LD_PRELOAD", preload.c_str(), 1);
    } else {
      for (std::string& library : order) arguments.push_back(library.data());
    }
    arguments.push_back(nullptr);
    execv("/proc/self/exe", arguments.data());
    return 127;
  });
  check_exited_cleanly(by_preload ? "by preload" : "by dlopen", result);
  CHECK(result.output[0] == '\0');
}

}  // namespace
}  // namespace stress

// order LIBRARY...
int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  CHECK(argc > 2);
  if (strcmp(argv[1], "load") == 0) {
    load(argc - 3, argv + 3);
    return end(atoi(argv[2]));
  }
  std::vector<std::string> order(argv + 1, argv + argc);
  Random random(1);
  for (int i = 0; i < kOrders; ++i) {
    for (size_t k = order.size(); k > 1; --k) std::swap(order[k - 1], order[random.below(k)]);
    run_in_order(order, i % 2 == 0, i / 2 % kEnds);
  }
  return passed("order");
}
