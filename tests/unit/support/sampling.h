// Sets where a sample comes, and tells which block is one.
#pragma once

#include <cstdint>

#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/internal.h"

namespace hakmem::test {

// This thread allocates `objects` of the class before its next sample. Builds with statistics only.
inline void set_countdown(uint32_t size_class, uint32_t objects) {
  ThreadCache* cache = thread_state.cache;
  open_bin(cache, size_class);
  count_allocations(cache, size_class);
  cache->classes[size_class].countdown.until_sample = objects;
  cache->classes[size_class].countdown.is_sampling = true;
  close_bin(cache, size_class);
}

inline bool is_sample(const void* block) {
  return heap.superslabs.find(reinterpret_cast<uintptr_t>(block))->head()->owner.load() == owner::kSampled;
}

}  // namespace hakmem::test
