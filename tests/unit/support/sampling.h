// Sets where a sample comes, and tells which block is one.
#pragma once

#include <cstdint>

#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/internal.h"

namespace hakmem::test {

// Empties this thread's bin of the class: after `objects` that come into it a sample
// is due. Builds with statistics only.
inline void set_countdown(uint32_t size_class, uint32_t objects) {
  ThreadCache* cache = thread_state.cache;
  count_allocations(cache, size_class);
  trim_bin(cache, size_class, 0);
  cache->classes[size_class].countdown.until_sample = objects;
  cache->classes[size_class].countdown.is_sampling = true;
  offer_bin(cache, size_class);
}

inline bool is_sample(const void* block) {
  return heap.superslabs.find(reinterpret_cast<uintptr_t>(block))->head()->owner.load() == owner::kSampled;
}

// A sample, with an interval of one byte: a countdown that was drawn before may have to run out.
inline void* allocate_sampled(size_t bytes) {
  for (;;) {
    void* block = allocate(bytes);
    if (is_sample(block)) return block;
    free(block);
  }
}

}  // namespace hakmem::test
