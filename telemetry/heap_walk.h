// One walk over the heap view: totals by size class and what is resident of them.
#pragma once

#include <cstdint>

#include "allocator/metrics/heap_view.h"
#include "telemetry/residency.h"
#include "telemetry/slab_totals.h"

namespace hakmem::telemetry {

struct HeapTotals : SlabTotals {
  uint64_t superslabs[metrics::kCountOf<metrics::SuperslabState>];
  uint64_t superslabs_by_occupancy[metrics::kCountOf<metrics::Occupancy>];
  uint64_t reserved;           // addresses of superslabs, purged or not
  uint64_t committed;          // units that hold pages or may: in use or dirty
  uint64_t in_use;             // units that belong to slabs
  uint64_t retained_resident;  // free units and free huge mappings
  uint64_t huge_retained;
  uint32_t longest_remote_list;
  uint64_t metadata_resident;
  uint32_t threads;
};

// Fills `totals`, and adds every range that is the allocator's to `ours`. One
// thread at a time.
void walk_heap(const metrics::HeapView& view, HeapTotals* totals, RangeList* ours);

// In a forked child: what walks of the parent, one of which may have been under way, have added up.
void forget_walks();

// Calls `visit` with every mapping that walks keep what they found in.
void visit_walk_mappings(void (*visit)(void*, uintptr_t address, size_t bytes), void* context);

}  // namespace hakmem::telemetry
