#include "telemetry/heap_walk.h"

#include <algorithm>

#include "telemetry/mapped_array.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

using metrics::SlabState;

constexpr size_t kMaxUnits = 64;
constexpr size_t kSuperslabBytes = 2 << 20;

// To ask the kernel about a superslab takes 3 us where its pages are small, and a heap
// may have many. So what was found is kept, and asked again where units were taken or
// given back or blocks carved since; of the others, whose pages the program or
// the kernel may still have changed, so many in each walk, in turn.
constexpr uint64_t kAskedInTurn = 128;
// The most that are asked as they changed: 8 GiB.
constexpr uint64_t kMaxAskedAsChanged = 4096;
// Neighbours that one call asks about.
constexpr size_t kAskedTogether = 8;

// To read the record of each slab takes longer than all else in a scrape of a large heap, and most have not changed
// since the last one. So what the slabs of a superslab add to the totals is kept as a sum of all that are at
// rest, and taken off it when the superslab has changed.
struct RestingSlab {
  uint32_t requested_bytes;  // large only
  uint16_t capacity;
  uint16_t carved;
  uint16_t used;
  uint16_t remote;
  uint8_t size_class;
  SlabState state;
  uint8_t first_unit;
  uint8_t units;
};

struct alignas(64) KnownSuperslab {
  uintptr_t address;  // 0: never asked
  // As it was asked.
  uint64_t free_units;
  uint64_t dirty_units;
  uint8_t unit_pages[kMaxUnits];  // resident
  // As it was walked.
  uint32_t carved;  // objects, of all its slabs together
  uint32_t rest;    // equals rest_now(): its slabs are in the sum, with these pages
  uint32_t longest_remote_list;
  uint16_t changed_in;  // of the view
  uint8_t rest_count;   // slabs in the sum
  bool is_due;          // more was carved since it was asked
};
static_assert(sizeof(KnownSuperslab) == 128);
// Looks in which nothing was marked, see SuperslabView::changed_in.
constexpr uint16_t kLooksAtRest = 2;

struct RestingSlabs {
  RestingSlab slabs[kMaxUnits];
};
constexpr size_t kMaxKnownChunks = 512;     // of 512 superslabs
constexpr size_t kMaxRestingChunks = 2048;  // of 64; those beyond do not rest

// Who walks has it: one thread at a time.
struct Known {
  KnownSuperslab unkept;  // for what there is no memory for
  MappedArray<KnownSuperslab, kMaxKnownChunks> superslabs;
  MappedArray<RestingSlabs, kMaxRestingChunks> resting;
  SlabTotals sum;  // of what rests
  uint64_t walks;
  uint64_t superslab_count;  // in the last walk
  uint32_t forgotten;        // how often, see forget_walks()
};
constinit Known known{};

// What KnownSuperslab::rest is where its slabs are in the sum.
uint32_t rest_now() { return known.forgotten + 1; }

struct Walk {
  const metrics::HeapView* view;
  HeapTotals* totals;
  RangeList* ours;
  bool by_mincore;
  uint16_t look;
  uint64_t superslab_count;
  uint64_t asked_as_changed;
  uint64_t turns;        // walks in which each superslab is asked once
  uint32_t next_number;  // no superslab below it comes any more
  Range asked;           // what `pages` tells of
  // Of the superslab being visited.
  const KnownSuperslab* superslab;
  uint32_t unit_shift;  // log2 of the bytes of a unit, as a division for each of many slabs takes long
  uint32_t carved;
  uint64_t slab_bytes;
  uint32_t slab_count;
  uint32_t longest_remote_list;
  bool is_at_rest;  // so far
};

// Static, as the stacks of the host's threads may be small.
constinit unsigned char pages[kAskedTogether * kSuperslabBytes / kKernelPageBytes]{};
constinit RestingSlabs found{};  // in the superslab being visited, as long as it is at rest

KnownSuperslab* known_of(uint32_t number) {
  while (known.superslabs.size() <= number)
    if (known.superslabs.extend(1) == nullptr) return &(known.unkept = {});
  return &known.superslabs[number];
}

RestingSlabs* resting_of(uint32_t number) {
  while (known.resting.size() <= number)
    if (known.resting.extend(1) == nullptr) return nullptr;
  return &known.resting[number];
}

bool is_in_turn(const Walk& walk, uint32_t number) {
  return number / kAskedInTurn % walk.turns == known.walks % walk.turns;
}

bool must_ask(Walk* walk, const metrics::SuperslabView& view, const KnownSuperslab& last) {
  if (last.address != view.address || is_in_turn(*walk, view.number)) return true;
  if (!last.is_due && last.free_units == view.free_units_mask && last.dirty_units == view.dirty_units_mask)
    return false;
  return walk->asked_as_changed++ < kMaxAskedAsChanged;
}

// Of `bytes`; null when the kernel does not tell. Neighbours have their turns together.
const unsigned char* pages_of(Walk* walk, uintptr_t address, size_t bytes, bool with_neighbours) {
  if (address >= walk->asked.begin && address + bytes <= walk->asked.end)
    return pages + (address - walk->asked.begin) / kKernelPageBytes;
  walk->asked = {};
  if (with_neighbours && resident_pages(address, sizeof pages * kKernelPageBytes, pages, walk->by_mincore)) {
    walk->asked = {address, address + sizeof pages * kKernelPageBytes};
    return pages;
  }
  return resident_pages(address, bytes, pages, walk->by_mincore) ? pages : nullptr;
}

void ask(Walk* walk, const metrics::SuperslabView& view, KnownSuperslab* result) {
  bool is_new = result->address != view.address;
  result->address = view.address;
  result->free_units = view.free_units_mask;
  result->dirty_units = view.dirty_units_mask;
  result->is_due = false;
  size_t unit_pages = view.unit_bytes / kKernelPageBytes;
  size_t units = std::min({view.bytes / view.unit_bytes, kMaxUnits, sizeof pages / unit_pages});
  const unsigned char* resident =
      pages_of(walk, view.address, units * view.unit_bytes, is_new || is_in_turn(*walk, view.number));
  for (size_t unit = 0; unit < kMaxUnits; ++unit) {
    bool is_resident = resident != nullptr && unit < units;
    result->unit_pages[unit] =
        is_resident ? static_cast<uint8_t>(count_resident(resident + unit * unit_pages, unit_pages)) : 0;
  }
}

// Resident bytes of some units.
uint64_t resident_in(const KnownSuperslab& superslab, size_t first, size_t units) {
  if (first >= kMaxUnits || units > kMaxUnits - first) return 0;
  uint64_t resident = 0;
  for (size_t unit = first; unit < first + units; ++unit) resident += superslab.unit_pages[unit];
  return resident * kKernelPageBytes;
}

void add_resting(const metrics::HeapView& view, SlabTotals* totals, const KnownSuperslab& superslab,
                 const RestingSlab& slab, size_t unit_bytes, uint64_t sign) {
  bool is_large = slab.size_class == metrics::kLargeClass;
  size_t bytes = slab.units * unit_bytes;
  metrics::SlabView shown{};
  shown.bytes = bytes;
  shown.size_class = slab.size_class;
  shown.state = slab.state;
  shown.block_bytes = static_cast<uint32_t>(is_large ? bytes : view.class_bytes(slab.size_class));
  shown.capacity = slab.capacity;
  shown.carved = slab.carved;
  shown.used = slab.used;
  shown.requested_bytes = slab.requested_bytes;
  shown.remote = slab.remote;
  add_slab(totals, shown, resident_in(superslab, slab.first_unit, slab.units), sign);
}

// Takes off the totals, which began with the sum of what rests, and off that sum.
void take_off_sum(Walk* walk, uint32_t number, KnownSuperslab* superslab) {
  if (superslab->rest != rest_now()) return;
  superslab->rest = 0;
  const RestingSlabs& resting = known.resting[number];
  for (uint32_t i = 0; i < superslab->rest_count; ++i)
    for (SlabTotals* totals : {static_cast<SlabTotals*>(walk->totals), &known.sum})
      add_resting(*walk->view, totals, *superslab, resting.slabs[i], kSuperslabBytes / kMaxUnits, -uint64_t{1});
}

// What was visited has been added to the totals; from the next walk on it is a part of the sum.
void add_to_sum(Walk* walk, const metrics::SuperslabView& view, KnownSuperslab* superslab) {
  if (superslab == &known.unkept || walk->turns == 1) return;  // where each is asked in every walk, none rests
  RestingSlabs* resting = resting_of(view.number);
  if (resting == nullptr) return;
  std::copy_n(found.slabs, walk->slab_count, resting->slabs);
  for (uint32_t i = 0; i < walk->slab_count; ++i)
    add_resting(*walk->view, &known.sum, *superslab, found.slabs[i], kSuperslabBytes / kMaxUnits, 1);
  superslab->rest_count = static_cast<uint8_t>(walk->slab_count);
  superslab->changed_in = view.changed_in;
  superslab->rest = rest_now();
}

// Superslabs that are not shown any more, as they are not mapped, hold nothing.
void pass_over(Walk* walk, uint32_t end) {
  for (; walk->next_number < end && walk->next_number < known.superslabs.size(); ++walk->next_number)
    take_off_sum(walk, walk->next_number, &known.superslabs[walk->next_number]);
  walk->next_number = std::max(walk->next_number, end);
}

bool can_be_kept(const metrics::SlabView& slab, size_t first_unit) {
  return first_unit < kMaxUnits && slab.capacity <= UINT16_MAX && slab.remote <= UINT16_MAX &&
         slab.requested_bytes <= kSuperslabBytes;
}

void visit_slab(void* context, const metrics::SlabView& shown) {
  auto& walk = *static_cast<Walk*>(context);
  if (shown.size_class >= metrics::kSizeClassCount || shown.state >= SlabState::kCount) {
    walk.is_at_rest = false;
    return;
  }
  metrics::SlabView slab = shown;
  slab.used = std::min(slab.used, slab.capacity);
  slab.carved = std::clamp(slab.carved, slab.used, std::max(slab.used, slab.capacity));
  size_t first_unit = (slab.address - walk.superslab->address) >> walk.unit_shift;
  size_t units = slab.bytes >> walk.unit_shift;
  add_slab(walk.totals, slab, resident_in(*walk.superslab, first_unit, units), 1);
  walk.carved += slab.carved;
  walk.longest_remote_list = std::max(walk.longest_remote_list, slab.remote);
  walk.slab_bytes += slab.bytes;
  walk.is_at_rest = walk.is_at_rest && walk.slab_count < kMaxUnits && can_be_kept(slab, first_unit);
  if (!walk.is_at_rest) return;
  found.slabs[walk.slab_count++] = {static_cast<uint32_t>(slab.requested_bytes),
                                    static_cast<uint16_t>(slab.capacity),
                                    static_cast<uint16_t>(slab.carved),
                                    static_cast<uint16_t>(slab.used),
                                    static_cast<uint16_t>(slab.remote),
                                    static_cast<uint8_t>(slab.size_class),
                                    slab.state,
                                    static_cast<uint8_t>(first_unit),
                                    static_cast<uint8_t>(units)};
}

void visit_slabs(Walk* walk, const metrics::SuperslabView& view, uint64_t in_use, bool is_asked,
                 KnownSuperslab* superslab) {
  walk->carved = 0;
  walk->slab_bytes = 0;
  walk->slab_count = 0;
  walk->longest_remote_list = 0;
  walk->is_at_rest = static_cast<uint16_t>(walk->look - view.changed_in) >= kLooksAtRest &&
                     view.bytes == kSuperslabBytes && view.unit_bytes == kSuperslabBytes / kMaxUnits;
  walk->view->visit_slabs(view.address, visit_slab, walk);
  if (!is_asked && superslab->carved != walk->carved) superslab->is_due = true;
  superslab->carved = walk->carved;
  superslab->longest_remote_list = walk->longest_remote_list;
  // All of it was seen, and is what was asked about.
  if (walk->is_at_rest && walk->slab_bytes == in_use && superslab->free_units == view.free_units_mask)
    add_to_sum(walk, view, superslab);
}

void visit_superslab(void* context, const metrics::SuperslabView& view) {
  auto& walk = *static_cast<Walk*>(context);
  HeapTotals& totals = *walk.totals;
  if (view.state < metrics::SuperslabState::kCount) ++totals.superslabs[static_cast<size_t>(view.state)];
  totals.reserved += view.bytes;
  auto free_units = static_cast<unsigned>(__builtin_popcountll(view.free_units_mask));
  auto dirty_units = static_cast<unsigned>(__builtin_popcountll(view.dirty_units_mask & view.free_units_mask));
  uint64_t in_use = view.bytes - std::min(view.bytes, free_units * view.unit_bytes);
  totals.in_use += in_use;
  if (in_use != 0) ++totals.superslabs_by_occupancy[quarter_of(in_use, view.bytes)];
  totals.committed += in_use + dirty_units * view.unit_bytes;

  ++walk.superslab_count;
  pass_over(&walk, view.number);
  walk.next_number = std::max(walk.next_number, view.number + 1);
  KnownSuperslab* superslab = known_of(view.number);
  bool is_asked = must_ask(&walk, view, *superslab);
  bool rests = !is_asked && superslab->rest == rest_now() && superslab->changed_in == view.changed_in &&
               superslab->free_units == view.free_units_mask;
  if (!rests) take_off_sum(&walk, view.number, superslab);
  if (is_asked) ask(&walk, view, superslab);
  for (uint64_t units = view.free_units_mask; units != 0; units &= units - 1)
    totals.retained_resident += superslab->unit_pages[__builtin_ctzll(units)] * kKernelPageBytes;
  if (!rests) {
    walk.superslab = superslab;
    walk.unit_shift = static_cast<uint32_t>(__builtin_ctzll(view.unit_bytes));
    visit_slabs(&walk, view, in_use, is_asked, superslab);
  }
  totals.longest_remote_list = std::max(totals.longest_remote_list, superslab->longest_remote_list);
}

void visit_huge(void* context, const metrics::HugeView& huge) {
  auto& walk = *static_cast<Walk*>(context);
  uint64_t resident = resident_bytes(huge.mapping.address, huge.mapping.bytes, walk.by_mincore);
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
  walk.totals->metadata_resident += resident_bytes(range.address, range.bytes, walk.by_mincore);
  walk.ours->add(range.address, range.bytes);
}

}  // namespace

void walk_heap(const metrics::HeapView& view, HeapTotals* totals, RangeList* ours) {
  *totals = {};
  *static_cast<SlabTotals*>(totals) = known.sum;
  Walk walk{};
  walk.view = &view;
  walk.totals = totals;
  walk.ours = ours;
  walk.by_mincore = may_ask_mincore();
  walk.look = view.begin_look();
  walk.turns = known.superslab_count / kAskedInTurn + 1;
  view.visit_superslabs(visit_superslab, &walk);
  pass_over(&walk, static_cast<uint32_t>(known.superslabs.size()));
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

void forget_walks() {
  known.sum = {};
  ++known.forgotten;
}

void visit_walk_mappings(void (*visit)(void*, uintptr_t, size_t), void* context) {
  auto visit_each = [&](uintptr_t address, size_t bytes) { visit(context, address, bytes); };
  known.superslabs.visit_used(visit_each);
  known.resting.visit_used(visit_each);
}

}  // namespace hakmem::telemetry
