#include "telemetry/heap_walk.h"

#include <algorithm>

#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

using metrics::SlabState;

constexpr size_t kMaxSuperslabPages = 2048;  // 8 MiB; a superslab is 2 MiB

// mincore costs some 2 us a superslab. Beyond this many, every second, fourth,
// ... superslab is asked and counts for its neighbours: 4,096 are 8 GiB.
constexpr uint64_t kMaxAskedSuperslabs = 4096;

struct Walk {
  const metrics::HeapView* view;
  HeapTotals* totals;
  RangeList* ours;
  uint64_t superslab_count;
  uint64_t superslab_index;
  uint64_t weight;  // each asked superslab counts for so many
  // Of the superslab being visited.
  uintptr_t superslab;
  size_t superslab_bytes;
  bool asked;
};

// Static, as the stacks of the host's threads may be small.
constinit unsigned char pages[kMaxSuperslabPages]{};

// Resident bytes of a range within the superslab being visited, weighted.
uint64_t resident_here(const Walk& walk, uintptr_t address, size_t bytes) {
  if (!walk.asked || address < walk.superslab || address + bytes > walk.superslab + walk.superslab_bytes) return 0;
  size_t first = (address - walk.superslab) / kKernelPageBytes;
  size_t count = bytes / kKernelPageBytes;
  uint64_t resident = 0;
  resident = count_resident(pages + first, count);
  return resident * kKernelPageBytes * walk.weight;
}

void add_large(HeapTotals* totals, uint64_t requested, uint64_t resident) {
  uint64_t live = std::min(requested, resident);
  totals->large_resident_live += live;
  totals->large_resident_internal += resident - live;
}

// The quarter that a share of `whole` lies in; `part` is not 0.
size_t quarter_of(uint64_t part, uint64_t whole) {
  return std::min<uint64_t>((4 * part - 1) / std::max(whole, part), 3);
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

  walk.superslab = superslab.address;
  walk.superslab_bytes = std::min(superslab.bytes, kMaxSuperslabPages * kKernelPageBytes);
  walk.asked =
      walk.superslab_index++ % walk.weight == 0 && resident_pages(superslab.address, walk.superslab_bytes, pages);
  for (unsigned unit = 0; unit < 32 && superslab.free_units_mask >> unit != 0; ++unit)
    if (superslab.free_units_mask >> unit & 1)
      totals.retained_resident +=
          resident_here(walk, superslab.address + unit * superslab.unit_bytes, superslab.unit_bytes);
  walk.view->visit_slabs(superslab.address, visit_slab, context);
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
  view.visit_superslabs(
      [](void* context, const metrics::SuperslabView&) { ++static_cast<Walk*>(context)->superslab_count; }, &walk);
  walk.weight = 1;
  while (walk.superslab_count / walk.weight > kMaxAskedSuperslabs) walk.weight *= 2;
  view.visit_superslabs(visit_superslab, &walk);
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

}  // namespace hakmem::telemetry
