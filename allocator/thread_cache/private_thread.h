// Private threads are not the program's but telemetry's. They have no thread cache, and what they
// allocate comes from a heap of their own: it is in no figure of the program's heap, and the
// program's threads stay as few as they are. Anybody may free it.
//
// Only builds with statistics have them.
#pragma once

#include <cstddef>

#include "allocator/page_arena/private_heap.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

HAKMEM_HIDDEN extern PrivateHeap<LinuxMemory> private_heap;

// Whether the address is in that heap.
inline bool is_private(const void* address) {
  if constexpr (!kBuild.stats) return false;
  return private_heap.contains(address);
}

inline bool is_private_thread() { return kBuild.stats && thread_state.phase == ThreadPhase::kPrivate; }

// Makes the calling thread a private one. False when it has allocated before, or there are no
// addresses for the heap: then it is one of the program's.
HAKMEM_COLD bool leave_program();

// Null for a thread of the program, and where the heap is full: then the block has to be the program's.
HAKMEM_COLD void* allocate_private(size_t bytes, size_t alignment);

// By any thread; a pointer into the heap that is none to a live block is a misuse.
HAKMEM_COLD void free_private(void* address);
HAKMEM_COLD size_t private_bytes(const void* address);  // usable; 0: a misuse, which has been said

}  // namespace hakmem
