// Superslab: 2 MiB, 64 units, spans of which are slabs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/build_profile.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/superslab/slab.h"

namespace hakmem {

using SuperslabState = metrics::SuperslabState;

// Counts the looks of telemetry at the heap; written by who looks. It wraps around: a change exactly 65,536 looks
// after the one before, with none between, is seen when the superslab has its turn of being read all the same.
HAKMEM_HIDDEN extern std::atomic<uint16_t> present_look;

// Invariants: dirty is a subset of free; a unit being purged is in neither.
// All fields but the constants and changed_in are written under the lock of SuperslabHeap.
struct alignas(64) Superslab {
  enum BinKind : uint8_t { kClean, kDirty, kBinKinds };

  // -- the line that who looks at all superslabs reads --
  uintptr_t address;  // constant
  Slab* slabs;        // constant; one record a unit
  uint64_t free;      // units that belong to no slab
  uint64_t dirty;     // of those: still hold pages
  uint64_t purged;    // units whose pages were given back and not used since
  // The superslab that was mapped for the first time after this one; set once.
  std::atomic<Superslab*> next_made;
  // The look during which what views show of its slabs changed last, see mark_changed(). Any thread writes it.
  std::atomic<uint16_t> changed_in;
  uint16_t maps_at;  // constant; of its SuperslabMaps, in lines from here
  uint8_t bin;       // the list it is in: by its longest run of free units,
  uint8_t bin_kind;  // and by whether any of them hold pages
  bool is_released;  // its addresses are not mapped; then it is in no list but that of released ones
  bool is_huge;      // may stand on a huge page, so that a first touch anywhere makes all of it resident
  Superslab* next;

  // -- the rest --
  Superslab* previous;
  uint64_t guarded;  // units whose last page is without access

  std::byte* maps() { return reinterpret_cast<std::byte*>(this) + maps_at * alignof(Superslab); }

  // After each change of what views show of a slab, its use of units and of its remote list included: so that who
  // looks at the heap again and again need not read the records of all slabs. Any thread.
  //
  // A look that begins while a thread is between its change and here may see neither; so only what was marked
  // in none of the last two looks can be taken for unchanged. This relies on that a thread is not held up for
  // two looks between a change and here, nor here; who marks much with one look sees to it afterwards. A mark
  // that is missed all the same shows a figure late, when the superslab has its turn of being read.
  HAKMEM_INLINE void mark_changed() { mark_changed(look_now()); }
  // The same where many changes are marked with one look.
  HAKMEM_INLINE void mark_changed(uint16_t look) {
    // Nobody else asks. Mostly it reads what all threads share, and writes once a look.
    if constexpr (kBuild.stats) {
      if (changed_in.load(std::memory_order_relaxed) != look) [[unlikely]]
        changed_in.store(look, std::memory_order_release);  // pairs with visit_superslabs() of views
    }
  }
  HAKMEM_INLINE static uint16_t look_now() { return kBuild.stats ? present_look.load(std::memory_order_relaxed) : 0; }

  static size_t bytes_of(uint64_t units) { return static_cast<size_t>(__builtin_popcountll(units)) * kUnitBytes; }
  static SuperslabState state_of(uint64_t free, uint64_t dirty) {
    if (free == 0) return SuperslabState::Full;
    if (free != kAllUnits) return SuperslabState::Active;
    return dirty != 0 ? SuperslabState::Empty : SuperslabState::Purged;
  }
  SuperslabState state() const { return state_of(free, dirty); }
  uint32_t right_bin() const { return longest_run(free); }
  uint32_t right_bin_kind() const { return dirty != 0 ? kDirty : kClean; }
  bool is_consistent() const { return (dirty & ~free) == 0 && bin == right_bin() && bin_kind == right_bin_kind(); }
};
static_assert(sizeof(Superslab) == 128);

}  // namespace hakmem
