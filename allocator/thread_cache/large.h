// Allocations above the size classes: a run of units of a superslab (large) or
// a mapping of its own (huge).
#pragma once

#include <cstddef>

#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

struct LargeAllocation {
  void* address;  // null, and errno is ENOMEM: no memory
  bool zeroed;
};

// `bytes` is above kMaxClassBytes, or `alignment` is more than its class has.
LargeAllocation allocate_large(size_t bytes, size_t alignment);

void free_large(Slab* slab, void* address, uint32_t shard);
void free_huge(void* address, uint32_t shard);

}  // namespace hakmem
