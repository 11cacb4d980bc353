// A library linked to early_late: its constructor runs before the program's,
// its destructor after it. Both allocate and free.
#include "tests/stress/early_late.h"

#include <map>
#include <string>

#include "tests/stress/content.h"

namespace stress {
namespace {

void* early_block;
std::map<std::string, std::string>* made_early;

struct Static {
  std::map<std::string, std::string> map;
  Static() {
    for (int i = 0; i < 200; ++i) map[std::to_string(i)] = std::string(static_cast<size_t>(i), 'v');
  }
  ~Static() {
    for (int i = 0; i < 200; ++i) CHECK(map[std::to_string(i)] == std::string(static_cast<size_t>(i), 'v'));
    map.clear();
    write_mark("library static object");
  }
};
Static object;

__attribute__((constructor(101))) void construct_early() {
  early_block = malloc(2000);
  fill_content(early_block, 2000, 101);
  made_early = new std::map<std::string, std::string>{{"a", "b"}};
}

__attribute__((destructor(101))) void destroy_late() {
  check_content(early_block, 2000, 101);
  free(early_block);
  delete made_early;
  free(malloc(100000));
  write_mark("library destructor");
}

}  // namespace

void* block_of_library() { return malloc(3000); }

}  // namespace stress
