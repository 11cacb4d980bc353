// One walk over the heap view: totals by size class and what is resident of them.
#pragma once

#include <cstdint>

#include "allocator/metrics/heap_view.h"
#include "telemetry/residency.h"

namespace hakmem::telemetry {

// What a walk finds of one size class; bytes unless it says objects.
struct ClassTotals {
  uint64_t slabs[metrics::kCountOf<metrics::SlabState>];
  uint64_t slab_bytes;
  uint64_t capacity_objects;
  uint64_t carved;          // bytes carved into blocks so far
  uint64_t used_objects;    // thread caches included
  uint64_t used;            // bytes of them
  uint64_t listed_objects;  // of those: waiting in thread caches
  uint64_t requested;       // large and huge: what was asked for, exact
  uint64_t resident;        // of slabs with at least one used object
  // Of slabs with at least one used object:
  uint64_t by_occupancy[metrics::kCountOf<metrics::Occupancy>];
  uint64_t holding_bytes;    // their spans
  uint64_t holding_objects;  // that fit into them
  uint64_t pinned;           // bytes carved and free in them
  uint64_t remote_objects;   // waiting on remote lists
};

// What slabs add to. Unsigned: who subtracts what was added is exact.
struct SlabTotals {
  ClassTotals classes[metrics::kSizeClassCount];
  uint64_t empty_slab_resident;
  uint64_t large_resident_live;  // large and huge: resident and requested
  uint64_t large_resident_internal;
};

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
