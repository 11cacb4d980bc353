// Superslab: 2 MiB, 32 units, spans of which are slabs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/metrics/heap_view.h"
#include "allocator/superslab/slab.h"

namespace hakmem {

using SuperslabState = metrics::SuperslabState;

// Invariants: dirty is a subset of free; a unit being purged is in neither.
// All fields but the constants are written under the lock of SuperslabHeap.
struct alignas(64) Superslab {
  enum BinKind : uint8_t { kClean, kDirty, kBinKinds };

  uintptr_t address;  // constant
  Slab* slabs;        // constant; one record a unit
  uint32_t free;      // units that belong to no slab
  uint32_t dirty;     // of those: still hold pages
  uint32_t purged;    // units whose pages were given back and not used since
  uint8_t bin;        // the list it is in: by its longest run of free units,
  uint8_t bin_kind;   // and by whether any of them hold pages
  bool is_released;   // its addresses are not mapped; then it is in no list but that of released ones
  bool is_huge;       // may stand on a huge page, so that a first touch anywhere makes all of it resident
  Superslab* next;
  Superslab* previous;
  uint32_t guarded;  // units whose last page is without access

  static SuperslabState state_of(uint32_t free, uint32_t dirty) {
    if (free == 0) return SuperslabState::Full;
    if (free != ~0u) return SuperslabState::Active;
    return dirty != 0 ? SuperslabState::Empty : SuperslabState::Purged;
  }
  SuperslabState state() const { return state_of(free, dirty); }
  uint32_t right_bin() const { return longest_run(free); }
  uint32_t right_bin_kind() const { return dirty != 0 ? kDirty : kClean; }
  bool is_consistent() const { return (dirty & ~free) == 0 && bin == right_bin() && bin_kind == right_bin_kind(); }
};
static_assert(sizeof(Superslab) == 64);

}  // namespace hakmem
