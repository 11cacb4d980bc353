// What the slabs of a heap come to, and what one slab adds to it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "allocator/metrics/heap_view.h"

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

inline void add_large(SlabTotals* totals, uint64_t requested, uint64_t resident, uint64_t sign = 1) {
  uint64_t live = std::min(requested, resident);
  totals->large_resident_live += sign * live;
  totals->large_resident_internal += sign * (resident - live);
}

// The quarter that a share of `whole` lies in; `part` is not 0.
inline size_t quarter_of(uint64_t part, uint64_t whole) {
  return size_t{4 * part > whole} + size_t{4 * part > 2 * whole} + size_t{4 * part > 3 * whole};
}

// A slab whose figures can be: used <= carved <= capacity. `sign` is 1, or -1 to take off what was added.
inline void add_slab(SlabTotals* all, const metrics::SlabView& slab, uint64_t resident, uint64_t sign) {
  ClassTotals& totals = all->classes[slab.size_class];
  totals.slabs[static_cast<size_t>(slab.state)] += sign;
  totals.slab_bytes += sign * slab.bytes;
  totals.capacity_objects += sign * slab.capacity;
  totals.carved += sign * slab.carved * slab.block_bytes;
  totals.used_objects += sign * slab.used;
  totals.used += sign * slab.used * slab.block_bytes;
  totals.remote_objects += sign * slab.remote;
  if (slab.used != 0 && slab.size_class != metrics::kLargeClass) {
    totals.by_occupancy[quarter_of(slab.used, slab.capacity)] += sign;
    totals.holding_bytes += sign * slab.bytes;
    totals.holding_objects += sign * slab.capacity;
    totals.pinned += sign * (slab.carved - slab.used) * slab.block_bytes;
  }
  if (slab.size_class == metrics::kLargeClass) {
    totals.requested += sign * slab.requested_bytes;
    add_large(all, slab.requested_bytes, resident, sign);
  } else if (slab.used == 0) {
    all->empty_slab_resident += sign * resident;
  } else {
    totals.resident += sign * resident;
  }
}

}  // namespace hakmem::telemetry
