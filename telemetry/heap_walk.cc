#include "telemetry/heap_walk.h"

#include <algorithm>

#include "telemetry/mapped_array.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

using metrics::SlabState;

constexpr size_t kMaxSuperslabPages = 2048;  // 8 MiB; a superslab is 2 MiB
constexpr size_t kMaxUnits = 32;

// To ask the kernel about a superslab takes 3 us where its pages are small, and a heap
// may have many. So what was found is kept, and asked again where units were taken or
// given back or blocks carved since; of the others, whose pages the program or
// the kernel may still have changed, so many in each walk, in turn.
constexpr uint64_t kAskedInTurn = 256;
// The most that are asked as they changed: 8 GiB.
constexpr uint64_t kMaxAskedAsChanged = 4096;

struct KnownSuperslab {
  uintptr_t address;  // 0: never asked
  uint32_t free_units;
  uint32_t dirty_units;
  uint32_t carved;                // objects, of all its slabs together
  bool is_due;                    // more was carved since it was asked
  uint8_t unit_pages[kMaxUnits];  // resident
};
constexpr size_t kMaxKnownChunks = 256;  // of some 1,100 superslabs

// Who walks has it: one thread at a time.
struct Known {
  MappedArray<KnownSuperslab, kMaxKnownChunks> superslabs;
  KnownSuperslab unkept;  // for what there is no memory for
  uint64_t walks;
  uint64_t superslab_count;  // in the last walk
};
constinit Known known{};

struct Walk {
  const metrics::HeapView* view;
  HeapTotals* totals;
  RangeList* ours;
  uint64_t superslab_count;
  uint64_t asked_as_changed;
  uint64_t turns;  // walks in which each superslab is asked once
  // Of the superslab being visited.
  const KnownSuperslab* superslab;
  uint32_t unit_shift;  // log2 of the bytes of a unit, as a division for each of many slabs takes long
  uint32_t carved;
};

// Static, as the stacks of the host's threads may be small.
constinit unsigned char pages[kMaxSuperslabPages]{};

KnownSuperslab* known_of(uint32_t number) {
  while (known.superslabs.size() <= number)
    if (known.superslabs.extend(1) == nullptr) return &(known.unkept = {});
  return &known.superslabs[number];
}

bool must_ask(Walk* walk, const metrics::SuperslabView& view, const KnownSuperslab& last) {
  if (last.address != view.address) return true;
  if (view.number % walk->turns == known.walks % walk->turns) return true;
  if (!last.is_due && last.free_units == view.free_units_mask && last.dirty_units == view.dirty_units_mask)
    return false;
  return walk->asked_as_changed++ < kMaxAskedAsChanged;
}

void ask(const metrics::SuperslabView& view, KnownSuperslab* result) {
  result->address = view.address;
  result->free_units = view.free_units_mask;
  result->dirty_units = view.dirty_units_mask;
  result->is_due = false;
  size_t unit_pages = view.unit_bytes / kKernelPageBytes;
  size_t units = std::min({view.bytes / view.unit_bytes, kMaxUnits, kMaxSuperslabPages / unit_pages});
  bool is_mapped = resident_pages(view.address, units * view.unit_bytes, pages);
  for (size_t unit = 0; unit < kMaxUnits; ++unit) {
    bool is_resident = is_mapped && unit < units;
    result->unit_pages[unit] =
        is_resident ? static_cast<uint8_t>(count_resident(pages + unit * unit_pages, unit_pages)) : 0;
  }
}

// Resident bytes of a range of units of the superslab being visited.
uint64_t resident_here(const Walk& walk, uintptr_t address, size_t bytes) {
  size_t first = (address - walk.superslab->address) >> walk.unit_shift;
  size_t end = first + (bytes >> walk.unit_shift);
  if (first >= kMaxUnits || end > kMaxUnits) return 0;
  uint64_t resident = 0;
  for (size_t unit = first; unit < end; ++unit) resident += walk.superslab->unit_pages[unit];
  return resident * kKernelPageBytes;
}

void add_large(HeapTotals* totals, uint64_t requested, uint64_t resident) {
  uint64_t live = std::min(requested, resident);
  totals->large_resident_live += live;
  totals->large_resident_internal += resident - live;
}

// The quarter that a share of `whole` lies in; `part` is not 0.
size_t quarter_of(uint64_t part, uint64_t whole) {
  return size_t{4 * part > whole} + size_t{4 * part > 2 * whole} + size_t{4 * part > 3 * whole};
}

void visit_slab(void* context, const metrics::SlabView& slab) {
  auto& walk = *static_cast<Walk*>(context);
  if (slab.size_class >= metrics::kSizeClassCount || slab.state >= SlabState::kCount) return;
  ClassTotals& totals = walk.totals->classes[slab.size_class];
  uint32_t used = std::min(slab.used, slab.capacity);
  uint32_t carved = std::clamp(slab.carved, used, std::max(used, slab.capacity));
  uint64_t resident = resident_here(walk, slab.address, slab.bytes);
  ++totals.slabs[static_cast<size_t>(slab.state)];
  totals.slab_bytes += slab.bytes;
  totals.capacity_objects += slab.capacity;
  totals.carved += uint64_t{carved} * slab.block_bytes;
  totals.used_objects += used;
  totals.used += uint64_t{used} * slab.block_bytes;
  totals.remote_objects += slab.remote;
  walk.carved += carved;
  walk.totals->longest_remote_list = std::max(walk.totals->longest_remote_list, slab.remote);
  if (used != 0 && slab.size_class != metrics::kLargeClass) {
    ++totals.by_occupancy[quarter_of(used, slab.capacity)];
    totals.holding_bytes += slab.bytes;
    totals.holding_objects += slab.capacity;
    totals.pinned += uint64_t{carved - used} * slab.block_bytes;
  }
  if (slab.size_class == metrics::kLargeClass) {
    totals.requested += slab.requested_bytes;
    add_large(walk.totals, slab.requested_bytes, resident);
  } else if (used == 0) {
    walk.totals->empty_slab_resident += resident;
  } else {
    totals.resident += resident;
  }
}

void visit_superslab(void* context, const metrics::SuperslabView& superslab) {
  auto& walk = *static_cast<Walk*>(context);
  HeapTotals& totals = *walk.totals;
  if (superslab.state < metrics::SuperslabState::kCount) ++totals.superslabs[static_cast<size_t>(superslab.state)];
  totals.reserved += superslab.bytes;
  auto free_units = static_cast<unsigned>(__builtin_popcount(superslab.free_units_mask));
  auto dirty_units = static_cast<unsigned>(__builtin_popcount(superslab.dirty_units_mask & superslab.free_units_mask));
  uint64_t in_use = superslab.bytes - std::min(superslab.bytes, free_units * superslab.unit_bytes);
  totals.in_use += in_use;
  if (in_use != 0) ++totals.superslabs_by_occupancy[quarter_of(in_use, superslab.bytes)];
  totals.committed += in_use + dirty_units * superslab.unit_bytes;

  ++walk.superslab_count;
  KnownSuperslab* last = known_of(superslab.number);
  bool is_asked = must_ask(&walk, superslab, *last);
  if (is_asked) ask(superslab, last);
  walk.superslab = last;
  walk.unit_shift = static_cast<uint32_t>(__builtin_ctzll(superslab.unit_bytes));
  walk.carved = 0;
  for (uint32_t units = superslab.free_units_mask; units != 0; units &= units - 1)
    totals.retained_resident += last->unit_pages[__builtin_ctz(units)] * kKernelPageBytes;
  walk.view->visit_slabs(superslab.address, visit_slab, context);
  if (!is_asked && last->carved != walk.carved) last->is_due = true;
  last->carved = walk.carved;
}

void visit_huge(void* context, const metrics::HugeView& huge) {
  auto& walk = *static_cast<Walk*>(context);
  uint64_t resident = resident_bytes(huge.mapping.address, huge.mapping.bytes);
  walk.ours->add(huge.mapping.address, huge.mapping.bytes);
  if (huge.requested_bytes == 0) {
    walk.totals->huge_retained += huge.mapping.bytes;
    walk.totals->retained_resident += resident;
    return;
  }
  ClassTotals& totals = walk.totals->classes[metrics::kHugeClass];
  totals.slab_bytes += huge.mapping.bytes;
  totals.capacity_objects += 1;
  totals.carved += huge.mapping.bytes;
  totals.used_objects += 1;
  totals.used += huge.mapping.bytes;
  totals.requested += std::min(huge.requested_bytes, huge.mapping.bytes);
  add_large(walk.totals, huge.requested_bytes, resident);
}

void visit_thread(void* context, const metrics::ThreadCacheView& cache) {
  auto& walk = *static_cast<Walk*>(context);
  if (cache.is_thread) ++walk.totals->threads;
  for (uint32_t size_class = 0; size_class < metrics::kSlabClassCount; ++size_class)
    walk.totals->classes[size_class].listed_objects += cache.listed[size_class];
}

void visit_metadata(void* context, const metrics::RangeView& range) {
  auto& walk = *static_cast<Walk*>(context);
  walk.totals->metadata_resident += resident_bytes(range.address, range.bytes);
  walk.ours->add(range.address, range.bytes);
}

}  // namespace

void walk_heap(const metrics::HeapView& view, HeapTotals* totals, RangeList* ours) {
  *totals = {};
  Walk walk{};
  walk.view = &view;
  walk.totals = totals;
  walk.ours = ours;
  walk.turns = known.superslab_count / kAskedInTurn + 1;
  view.visit_superslabs(visit_superslab, &walk);
  known.superslab_count = walk.superslab_count;
  ++known.walks;
  view.visit_huge(visit_huge, &walk);
  view.visit_threads(visit_thread, &walk);
  view.visit_metadata(visit_metadata, &walk);
  view.visit_reservations(
      [](void* context, const metrics::RangeView& range) {
        static_cast<Walk*>(context)->ours->add(range.address, range.bytes);
      },
      &walk);
  for (uint32_t size_class = 0; size_class < metrics::kSlabClassCount; ++size_class) {
    ClassTotals& of_class = totals->classes[size_class];
    of_class.listed_objects = std::min(of_class.listed_objects, of_class.used_objects);
  }
}

void visit_walk_mappings(void (*visit)(void*, uintptr_t, size_t), void* context) {
  known.superslabs.visit_used([&](uintptr_t address, size_t bytes) { visit(context, address, bytes); });
}

}  // namespace hakmem::telemetry
