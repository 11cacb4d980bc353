// What the exported names are made of: the functions of the malloc family under
// names of our own, so that tests can link them beside another malloc.
//
// Every function may be called by any thread at any time: before constructors,
// after destructors, and while other threads end. Failure is null with errno
// set; success and every free keep errno.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// calloc(3).
void* allocate_zeroed(size_t count, size_t bytes);

// realloc(3), as glibc has it: of null it allocates, to 0 it frees and returns null.
void* reallocate(void* address, size_t bytes);

// Memory aligned to `alignment`, a power of two.
void* allocate_aligned(size_t alignment, size_t bytes);

// malloc_usable_size(3): 0 for null. Ends the process for a pointer that is not ours.
size_t usable_bytes(const void* address);

// Gives all free memory back to the kernel; returns the bytes.
size_t purge_all();

// Figures of the whole heap, computed from slab state when asked.
struct HeapTotals {
  size_t superslab_bytes;  // committed
  size_t used_bytes;       // live objects, large and huge; thread caches are not in use
  size_t free_bytes;       // committed superslab bytes that are not handed out
  size_t retained_bytes;   // of those: whole units that still hold pages
  size_t slabs;
  size_t free_blocks;  // in slabs and thread caches
  size_t huge_allocations;
  size_t huge_bytes;
};
HeapTotals heap_totals();

}  // namespace hakmem
