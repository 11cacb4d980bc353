#include "telemetry/publisher.h"

#include <algorithm>
#include <cmath>

#include "allocator/metrics/counters.h"
#include "telemetry/diagnosis.h"
#include "telemetry/figures.h"
#include "telemetry/heap_profile.h"
#include "telemetry/heap_walk.h"
#include "telemetry/page_writer.h"
#include "telemetry/process_account.h"
#include "telemetry/publication.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

using metrics::Fragmentation;
using metrics::kCountOf;
using metrics::kFirstSlot;
using metrics::kSizeClassCount;
using metrics::Metric;
using metrics::Part;

// What the program held when it held most, and what the heap took then.
struct Peak {
  uint64_t live;
  uint64_t resident;
  double time;
};

// All of it used by one thread at a time (the transition flag), and static as
// the stacks of the host's threads may be small.
struct Publisher {
  HeapTotals totals;
  RangeList ours;
  RangeList telemetry_ranges;
  Range stack;              // of the serving thread
  uint64_t more_telemetry;  // than is known without an account of the process, by the last one
  Peak peak;
  Window window;
  PublishCost cost;
};
HAKMEM_LARGE_DATA constinit Publisher publisher{};

double ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

double seconds(uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; }

template <Metric metric>
uint64_t counted(PageHeader* page, uint32_t index) {
  const Slot* shards = shard_slots(page);
  uint64_t sum = 0;
  for (uint32_t shard = 0; shard < page->shard_count.load(std::memory_order_relaxed); ++shard)
    sum += shards[shard * metrics::kShardSlots + kFirstSlot<metric> + index].load(std::memory_order_relaxed);
  return sum;
}

// Share of the allocated bytes of a class that nobody asked for, from the
// requests whose size was observed.
double internal_share(PageHeader* page, const metrics::HeapView& view, uint32_t size_class) {
  uint64_t requested = counted<Metric::kRequestedBytesObserved>(page, size_class);
  uint64_t allocated = counted<Metric::kRequestsObserved>(page, size_class) * view.class_bytes(size_class);
  return allocated == 0 ? 0.0 : std::clamp(1.0 - ratio(requested, allocated), 0.0, 1.0);
}

struct ResidentParts {
  uint64_t bytes[kCountOf<Part>];
  uint64_t& operator[](Part part) { return bytes[static_cast<size_t>(part)]; }
};

// Bytes of slabs that would hold nothing if the objects of the class stood together.
uint64_t compactable_bytes(const ClassTotals& totals) {
  uint64_t slabs = 0;
  for (uint64_t count : totals.by_occupancy) slabs += count;
  if (slabs == 0) return 0;
  uint64_t capacity = totals.holding_objects / slabs;
  uint64_t needed = std::min(slabs, (totals.used_objects + capacity - 1) / capacity);
  return (slabs - needed) * (totals.holding_bytes / slabs);
}

// Stores what belongs to one class and spreads its resident bytes over the
// parts: what the program holds first, then its rounding, then thread caches;
// the rest of the slabs is free.
void publish_class(PageHeader* page, const metrics::HeapView& view, uint32_t size_class, ResidentParts* parts,
                   uint64_t* all_internal) {
  const ClassTotals& totals = publisher.totals.classes[size_class];
  uint64_t live_objects = totals.used_objects - totals.listed_objects;
  uint64_t live = totals.used;
  uint64_t internal;
  if (size_class >= metrics::kSlabClassCount) {
    internal = live - std::min(live, totals.requested);
  } else {
    uint64_t block = view.class_bytes(size_class);
    uint64_t cached = totals.listed_objects * block;
    live = live_objects * block;
    internal = static_cast<uint64_t>(static_cast<double>(live) * internal_share(page, view, size_class));
    uint64_t left = totals.resident;
    auto take = [&](Part part, uint64_t bytes) {
      bytes = std::min(bytes, left);
      (*parts)[part] += bytes;
      left -= bytes;
    };
    take(Part::Live, live - internal);
    take(Part::InternalFragmentation, internal);
    take(Part::ThreadCache, cached);
    take(Part::SlabFree, left);
  }
  uint64_t external = totals.carved - std::min(totals.carved, totals.used);
  *all_internal += internal;

  constexpr uint32_t kStates = kCountOf<metrics::SlabState>;
  for (uint32_t state = 0; state < kStates; ++state)
    store<Metric::kSlabs>(size_class * kStates + state, totals.slabs[state]);
  store<Metric::kSlabBytes>(size_class, totals.slab_bytes);
  constexpr uint32_t kQuarters = kCountOf<metrics::Occupancy>;
  for (uint32_t quarter = 0; quarter < kQuarters; ++quarter)
    store<Metric::kSlabsByOccupancy>(size_class * kQuarters + quarter, totals.by_occupancy[quarter]);
  store<Metric::kPinnedBytes>(size_class, totals.pinned);
  store<Metric::kCompactableBytes>(size_class, compactable_bytes(totals));
  store<Metric::kSlabOccupancy>(size_class, ratio(totals.used_objects, totals.capacity_objects));
  store<Metric::kLiveObjects>(size_class, live_objects);
  store<Metric::kLiveBytes>(size_class, live);
  constexpr uint32_t kKinds = kCountOf<Fragmentation>;
  uint32_t first = size_class * kKinds;
  store<Metric::kClassFragmentationBytes>(first + static_cast<uint32_t>(Fragmentation::Internal), internal);
  store<Metric::kClassFragmentationBytes>(first + static_cast<uint32_t>(Fragmentation::External), external);
  store<Metric::kClassFragmentationRatio>(first + static_cast<uint32_t>(Fragmentation::Internal),
                                          ratio(internal, totals.carved));
  store<Metric::kClassFragmentationRatio>(first + static_cast<uint32_t>(Fragmentation::External),
                                          ratio(external, totals.carved));
}

void publish_superslabs() {
  const HeapTotals& totals = publisher.totals;
  for (uint32_t state = 0; state < kCountOf<metrics::SuperslabState>; ++state)
    store<Metric::kSuperslabs>(state, totals.superslabs[state]);
  for (uint32_t quarter = 0; quarter < kCountOf<metrics::Occupancy>; ++quarter)
    store<Metric::kSuperslabsByOccupancy>(quarter, totals.superslabs_by_occupancy[quarter]);
  using metrics::BytesKind;
  store<Metric::kSuperslabBytes>(static_cast<uint32_t>(BytesKind::Reserved), totals.reserved);
  store<Metric::kSuperslabBytes>(static_cast<uint32_t>(BytesKind::Committed), totals.committed);
  store<Metric::kSuperslabBytes>(static_cast<uint32_t>(BytesKind::InUse), totals.in_use);
  store<Metric::kHugeLive>(0, totals.classes[metrics::kHugeClass].used_objects);
  store<Metric::kHugeLiveBytes>(0, totals.classes[metrics::kHugeClass].used);
}

uint64_t beyond(uint64_t bytes, uint64_t bound) { return bytes - std::min(bytes, bound); }

// What purging holds back and what it is behind with, in superslabs and huge mappings together.
void publish_purging(const metrics::HeapView& view) {
  const HeapTotals& totals = publisher.totals;
  size_t superslabs = view.superslab_hold_back(totals.in_use);
  size_t huge = view.huge_hold_back(totals.classes[metrics::kHugeClass].used);
  uint64_t backlog = beyond(totals.committed - totals.in_use, superslabs) + beyond(totals.huge_retained, huge);
  store<Metric::kPurgeBacklog>(0, backlog);
  store<Metric::kPurgeHoldBack>(0, superslabs + huge);
  double last = kNotMeasured;
  if (uint64_t at = metrics::last_purge.load(std::memory_order_relaxed); at != 0)
    last = seconds(clock_nanoseconds(CLOCK_REALTIME) - (clock_nanoseconds(CLOCK_MONOTONIC) - at));
  store<Metric::kLastPurge>(0, last);
}

// `live` is the resident part of it.
void publish_peak(uint64_t live, uint64_t resident, double now) {
  Peak& peak = publisher.peak;
  if (live > peak.live) peak = {live, resident, now};
  store<Metric::kPeak>(metrics::AtPeak::Live, peak.live);
  store<Metric::kPeak>(metrics::AtPeak::HeapResident, peak.resident);
  store<Metric::kPeakTime>(0, peak.live == 0 ? kNotMeasured : peak.time);
  store<Metric::kRealizedFragmentation>(0, ratio(beyond(peak.resident, peak.live), peak.resident));
}

void publish_locks(const metrics::HeapView& view) {
  for (uint32_t lock = 0; lock < kCountOf<metrics::Lock>; ++lock) {
    LockStatsView stats = view.lock_stats(static_cast<metrics::Lock>(lock));
    store_counter<Metric::kLockAcquisitions>(lock, stats.acquisitions);
    store_counter<Metric::kLockWaits>(lock, stats.waits);
    store_counter<Metric::kLockWaitTime>(lock, stats.wait_nanoseconds);
  }
}

// Lists them all, and returns the bytes that are known to be resident: of those that are populated when they are made,
// and of the private heap.
uint64_t collect_telemetry_ranges(const metrics::HeapView& view) {
  RangeList& list = publisher.telemetry_ranges;
  list.clear();
  auto add = [](void* context, uintptr_t address, size_t bytes) {
    static_cast<RangeList*>(context)->add(address, bytes);
  };
  visit_page_mappings(add, &list);
  visit_profile_mappings(add, &list);
  visit_walk_mappings(add, &list);
  for (const RangeList* own : {&publisher.ours, &publisher.telemetry_ranges})
    list.add(own->mapping().begin, own->mapped_bytes());
  uint64_t known = 0;
  for (const Range& range : list) known += range.end - range.begin;
  list.add(publisher.stack.begin, publisher.stack.end - publisher.stack.begin);
  if (metrics::RangeView heap = view.private_range(); heap.bytes != 0) {
    list.add(heap.address, heap.bytes);
    known += resident_bytes(heap.address, heap.bytes, may_ask_mincore());
  }
  list.normalise();
  return known;
}

// What was counted since the start, over all shards.
Window::Counts counts(PageHeader* page) {
  Window::Counts result{};
  uint64_t cpu = clock_nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
  store_counter<Metric::kProcessCpu>(0, cpu);
  result.time = seconds(clock_nanoseconds(CLOCK_MONOTONIC));
  result.cpu = seconds(cpu);
  for (uint32_t step = 0; step < kCountOf<metrics::RefillStep>; ++step) {
    uint32_t sum = step * metrics::kHistogramSlots + metrics::kHistogramBuckets;
    result.superslab_refill += seconds(counted<Metric::kSuperslabRefillTime>(page, sum));
  }
  result.purged = static_cast<double>(counted<Metric::kPurgedBytes>(page, 0));
  result.remote_frees = static_cast<double>(counted<Metric::kRemoteFrees>(page, 0));
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class)
    result.allocations += static_cast<double>(counted<Metric::kAllocations>(page, size_class));
  return result;
}

void publish_diagnosis(PageHeader* page, uint64_t heap_resident, ResidentParts parts, const ProcessAccount& process) {
  Facts facts;
  facts.heap = static_cast<double>(heap_resident);
  facts.slab_free = static_cast<double>(parts[Part::SlabFree]);
  facts.internal = static_cast<double>(parts[Part::InternalFragmentation]);
  facts.retained = static_cast<double>(parts[Part::Retained] + parts[Part::EmptySlab]);
  facts.thread_cache = static_cast<double>(parts[Part::ThreadCache]);
  facts.process = process.resident;
  facts.outside = process.outside;
  facts.huge_pages = process.huge_pages;
  facts.swapped = process.swapped;
  if (process.cgroup.distance() != kUnknownBytes) {
    facts.cgroup_limit = static_cast<double>(process.cgroup.limit);
    facts.cgroup_distance = static_cast<double>(process.cgroup.distance());
  }
  publisher.window.look(counts(page), &facts);
  for (uint32_t finding = 0; finding < kCountOf<metrics::Finding>; ++finding)
    store<Metric::kDiagnosis>(finding, holds(static_cast<metrics::Finding>(finding), facts) ? 1.0 : 0.0);
}

template <Metric metric>
double stored(uint32_t index) {
  return decode_gauge(figures[kFirstSlot<metric> + index]);
}

double stored_part(Part part) { return stored<Metric::kResidentBytes>(static_cast<uint32_t>(part)); }

// Where the walk did not go beyond the heap, the kernel's quick figure does.
double resident_now() {
  double resident = stored<Metric::kProcessResidentBytes>(0);
  if (!__builtin_isnan(resident)) return resident;
  uint64_t bytes = process_resident_bytes();
  return bytes == 0 ? kNotMeasured : static_cast<double>(bytes);
}

void remember(PageHeader* page) {
  HistoryFigures figures{};
  figures.realtime = clock_nanoseconds(CLOCK_REALTIME);
  figures.resident = resident_now();
  figures.live = stored_part(Part::Live);
  figures.retained = stored_part(Part::Retained);
  figures.thread_cache = stored_part(Part::ThreadCache);
  figures.slab_free = stored_part(Part::SlabFree);
  figures.outside = stored_part(Part::Outside);
  figures.unexplained = stored<Metric::kResidentUnexplained>(0);
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class)
    figures.allocations += counted<Metric::kAllocations>(page, size_class);
  figures.purged_bytes = counted<Metric::kPurgedBytes>(page, 0);
  for (uint32_t step = 0; step < kCountOf<metrics::RefillStep>; ++step)
    figures.refill_nanoseconds +=
        counted<Metric::kSuperslabRefillTime>(page, step * metrics::kHistogramSlots + metrics::kHistogramBuckets);
  record_history(history(page), figures, clock_nanoseconds(CLOCK_MONOTONIC));
}

void store_figures(PageHeader* page) {
  Slot* slots = publish_slots(page);
  Publication<>::publish(page->publish_epoch, [slots] {
    for (uint32_t i = 0; i < metrics::kPublishSlots; ++i) slots[i].store(figures[i], std::memory_order_relaxed);
  });
}

}  // namespace

constinit uint64_t figures[metrics::kPublishSlots]{};

void set_serving_stack(uintptr_t address, size_t bytes) { publisher.stack = {address, address + bytes}; }

void forget_parent() {
  publisher.stack = {};
  publisher.more_telemetry = 0;
  publisher.peak = {};
  publisher.window = {};
  forget_parent_account();
  forget_walks();
}

namespace {

struct Measured {
  ResidentParts parts{};
  uint64_t heap_resident = 0;
  uint64_t internal = 0;
  uint64_t live = 0;
  uint64_t cached = 0;
  uint64_t remote = 0;
  ProcessAccount process;
};

void measure_heap(const metrics::HeapView& view, PageHeader* page, Measured* measured) {
  const HeapTotals& totals = publisher.totals;
  ResidentParts& parts = measured->parts;
  publisher.ours.clear();
  walk_heap(view, &publisher.totals, &publisher.ours);
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    publish_class(page, view, size_class, &parts, &measured->internal);
    const ClassTotals& of_class = totals.classes[size_class];
    uint64_t block = of_class.used_objects == 0 ? 0 : of_class.used / of_class.used_objects;
    measured->cached += of_class.listed_objects * block;
    measured->live += of_class.used - of_class.listed_objects * block;
    measured->remote += of_class.remote_objects;
  }
  parts[Part::Live] += totals.large_resident_live;
  parts[Part::InternalFragmentation] += totals.large_resident_internal;
  parts[Part::EmptySlab] = totals.empty_slab_resident;
  parts[Part::Retained] = totals.retained_resident;
  parts[Part::Metadata] = totals.metadata_resident;
  for (uint64_t bytes : parts.bytes) measured->heap_resident += bytes;
}

Measured measure(const metrics::HeapView& view, PageHeader* page, Depth depth) {
  uint64_t start = clock_nanoseconds(CLOCK_MONOTONIC);
  Measured measured;
  measure_heap(view, page, &measured);
  uint64_t known = collect_telemetry_ranges(view);
  uint64_t middle = clock_nanoseconds(CLOCK_MONOTONIC);
  publisher.ours.normalise();
  measured.process = publish_process(publisher.ours, publisher.telemetry_ranges, measured.heap_resident, depth);
  if (!std::isnan(measured.process.telemetry)) {
    auto found = static_cast<uint64_t>(measured.process.telemetry);
    known = std::min(known, found);
    publisher.more_telemetry = found - known;
  }
  measured.parts[Part::Telemetry] = known + publisher.more_telemetry;
  publisher.cost.heap = middle - start;
  if (depth != Depth::Heap)
    publisher.cost.process = clock_nanoseconds(CLOCK_MONOTONIC) - middle - measured.process.rare_cost;
  return measured;
}

// A huge page that came or went between two readings is 2 MiB that nothing explains.
constexpr double kHalfHugePage = 1024.0 * 1024;
constexpr uint32_t kMaxMeasurements = 3;

bool has_moved(const ProcessAccount& process) { return std::fabs(process.unexplained) > kHalfHugePage; }

}  // namespace

uint32_t publish(const metrics::HeapView& view, PageHeader* page, Depth depth) {
  Measured measured = measure(view, page, depth);
  for (uint32_t i = 1; depth == Depth::Scrape && i < kMaxMeasurements && has_moved(measured.process); ++i)
    measured = measure(view, page, depth);
  ResidentParts& parts = measured.parts;
  uint64_t heap_resident = measured.heap_resident;
  publish_superslabs();
  publish_purging(view);
  publish_locks(view);
  for (uint32_t part = 0; part < static_cast<uint32_t>(Part::Outside); ++part)
    store<Metric::kResidentBytes>(part, parts.bytes[part]);

  uint64_t free_resident = parts[Part::SlabFree] + parts[Part::EmptySlab] + parts[Part::Retained];
  store<Metric::kFragmentationBytes>(static_cast<uint32_t>(Fragmentation::Internal), measured.internal);
  store<Metric::kFragmentationBytes>(static_cast<uint32_t>(Fragmentation::External), free_resident);
  store<Metric::kFragmentationRatio>(static_cast<uint32_t>(Fragmentation::Internal),
                                     ratio(measured.internal, measured.live));
  store<Metric::kFragmentationRatio>(static_cast<uint32_t>(Fragmentation::External),
                                     ratio(free_resident, heap_resident));
  store<Metric::kHeapResidentBytes>(0, heap_resident + parts[Part::Telemetry]);
  store<Metric::kThreads>(0, publisher.totals.threads);
  store<Metric::kThreadCacheBytes>(0, measured.cached);
  store<Metric::kRemoteQueue>(0, measured.remote);
  store<Metric::kRemoteQueueLongest>(0, publisher.totals.longest_remote_list);
  double now = seconds(clock_nanoseconds(CLOCK_REALTIME));
  publish_peak(parts[Part::Live], heap_resident, now);
  publish_diagnosis(page, heap_resident, parts, measured.process);
  store<Metric::kPublishTime>(0, now);
  store_figures(page);
  remember(page);
  return publisher.totals.threads;
}

PublishCost publish_cost() { return publisher.cost; }

}  // namespace hakmem::telemetry
