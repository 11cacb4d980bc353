// Blocks by the many, and where they are, for the calling thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem::test {

inline std::vector<void*> allocate_many(size_t count, size_t bytes) {
  std::vector<void*> blocks;
  for (size_t i = 0; i < count; ++i) blocks.push_back(allocate(bytes));
  return blocks;
}

inline void free_all(const std::vector<void*>& blocks) {
  for (void* block : blocks) free(block);
}

inline Slab* slab_of_block(void* block) { return heap.superslabs.find(reinterpret_cast<uintptr_t>(block))->head(); }
inline ClassState& state_of(size_t bytes) { return thread_state.cache->classes[size_class_of(bytes)]; }
inline uint32_t in_bin(size_t bytes) { return thread_state.cache->blocks_in_bin(size_class_of(bytes)); }

}  // namespace hakmem::test
