// One of the libraries of order.cc: what runs at its start and its end frees what the
// others have left, and leaves blocks of its own.
#include <string>
#include <vector>

#include "tests/stress/content.h"

// Of the program.
extern "C" void exchange_blocks(size_t number);

namespace {

struct Static {
  std::vector<std::string> strings;
  Static() {
    for (size_t i = 0; i < 200; ++i) strings.emplace_back(i * NUMBER, 's');
    exchange_blocks(NUMBER);
  }
  ~Static() {
    for (size_t i = 0; i < 200; ++i) CHECK(strings[i] == std::string(i * NUMBER, 's'));
    exchange_blocks(NUMBER + 10);
  }
};
Static object;
thread_local Static object_of_thread;

__attribute__((constructor(101))) void construct() {
  exchange_blocks(NUMBER + 20);
  CHECK(atexit([] { exchange_blocks(NUMBER + 40); }) == 0);
  CHECK(at_quick_exit([] { exchange_blocks(NUMBER + 50); }) == 0);
}
__attribute__((destructor(101))) void destruct() { exchange_blocks(NUMBER + 30); }

}  // namespace

extern "C" size_t use_object_of_thread() { return object_of_thread.strings.size(); }
