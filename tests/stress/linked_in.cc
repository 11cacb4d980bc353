// Linked into the programs of builds that nothing can be preloaded beside: their calls are hakmem's by linked_in.map.
#include <stdint.h>
#include <stdlib.h>

#include "allocator/shared_pool/heap.h"
#include "tests/stress/check.h"

namespace stress {
namespace {

// As in a preloaded library the first call comes before all of the program, which registers handlers for forks.
// Linked before the program's own with this priority.
[[gnu::constructor(101)]] void call_first() { free(malloc(1)); }

}  // namespace

bool hakmem_is_loaded() {
  void* block = malloc(1);
  bool is_ours = hakmem::heap.superslabs.find(reinterpret_cast<uintptr_t>(block)) != nullptr;
  free(block);
  auto* object = new int;
  is_ours = is_ours && hakmem::heap.superslabs.find(reinterpret_cast<uintptr_t>(object)) != nullptr;
  delete object;
  return is_ours;
}

}  // namespace stress
