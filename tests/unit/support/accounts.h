// The allocator's books: what views, counters and exact counts say, and that
// they agree. Only while no other thread is in a call.
#pragma once

#include <cstdint>

#include "tests/unit/support/shadow_heap.h"

namespace hakmem::test {

// Objects that the heap view says the program holds.
LiveCounts live_by_view();

// Objects waiting in thread caches, by class.
LiveCounts listed_by_view();

// Debug build: holds by class that the exact number of allocations is what
// hakmem_allocations_total says and what each cache has allocated since its bin
// was looked at last, which is at most what a bin holds.
void expect_allocations_counted();

// Objects of slabs of the class that are handed out as of their last settlement
// (sampled slabs left out, which no refill is made from).
LiveCounts used_in_slabs();

// Slabs that hold blocks of a class; those of samples left out, of which one a class stays.
uint64_t unsampled_slabs();

uint64_t committed_superslabs();

// Holds all books against the live blocks of the models:
//   view:      slab used - frees not settled - remote - listed == live
//   counters:  refilled objects - collected objects == used, by class
//   exact:     allocations - frees == live, by class, and all allocations are counted
void expect_books_balance(const LiveCounts& live);

}  // namespace hakmem::test
