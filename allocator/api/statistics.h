// Statistics of the debug build.
#pragma once

#include <cstdint>

namespace hakmem {

// Every call counted, over all threads; zeroes in other builds. Exact when no
// other thread allocates or frees meanwhile.
struct ExactTotals {
  uint64_t allocations;
  uint64_t frees;
};
ExactTotals exact_totals(uint32_t size_class);

// Locks, arena, refills and exact counts on stderr. Does nothing but in the debug build.
void print_debug_statistics();

// is_consistent() of arena, superslabs, pool and every slab, for tests: no
// other thread may be in a call.
bool heap_is_consistent();

}  // namespace hakmem
