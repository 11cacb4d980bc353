// The one heap of the process: what all threads share.
#pragma once

#include "allocator/base/assert.h"
#include "allocator/page_arena/huge_heap.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/platform/virtual_memory.h"
#include "allocator/shared_pool/shared_pool.h"
#include "allocator/superslab/superslab_heap.h"

namespace hakmem {

struct Heap {
  constexpr Heap() = default;

  PageArena<LinuxMemory> arena;
  SuperslabHeap<LinuxMemory> superslabs{arena};
  HugeHeap<LinuxMemory> huge{arena};
  SharedPool pool;
};

HAKMEM_HIDDEN extern Heap heap;

}  // namespace hakmem
