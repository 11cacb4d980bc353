// The catalogue as C++: metrics, their labels, and where each value is stored.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace hakmem::metrics {

enum class Kind : uint8_t { Counter, Gauge, Histogram };
enum class Storage : uint8_t { Shard, Publish, Serve };

// Rows of the size-class label: the classes of slabs, then "large" (a run of
// units of its own in a superslab) and "huge" (a mapping of its own).
inline constexpr uint32_t kSlabClassCount = 96;
inline constexpr uint32_t kLargeClass = kSlabClassCount;
inline constexpr uint32_t kHugeClass = kSlabClassCount + 1;
inline constexpr uint32_t kSizeClassCount = kSlabClassCount + 2;

enum class RefillSource : uint8_t { OwnFrees, RemoteFrees, FreshCarve, OtherSlab, NewSuperslab, kCount };
enum class RefillStep : uint8_t { Scan, Map, Metadata, Carve, kCount };
enum class KernelCall : uint8_t { Mmap, Mprotect, Madvise, Mremap, Munmap, kCount };
enum class SlowCall : uint8_t { Malloc, Free, kCount };
enum class SuperslabState : uint8_t { Active, Full, Empty, Purged, kCount };
// Names and meaning of the states: superslab/slab.h.
enum class SlabState : uint8_t { Free, Current, Available, Sleeping, Unowned, Pooled, Sampled, Large, kCount };
enum class Lock : uint8_t { ThreadRegistry, SharedPool, Samples, Superslabs, Huge, PageArena, kCount };
enum class BytesKind : uint8_t { Reserved, Committed, InUse, kCount };
enum class Fragmentation : uint8_t { Internal, External, kCount };
// Slabs by the share of their blocks that are handed out, superslabs by the share of their units in slabs.
enum class Occupancy : uint8_t { To25, To50, To75, To100, kCount };
// At the moment when the program held most.
enum class AtPeak : uint8_t { Live, HeapResident, kCount };
enum class Part : uint8_t {
  Live,
  InternalFragmentation,
  ThreadCache,
  SlabFree,
  EmptySlab,
  Retained,
  Metadata,
  Telemetry,
  Outside,
  kCount
};

// Of a process's memory, by smaps_rollup; swapped is not resident.
enum class KernelState : uint8_t { HugePages, LazilyFreed, Swapped, kCount };
enum class CgroupFigure : uint8_t { Current, Reclaimable, Limit, Distance, kCount };

enum class Finding : uint8_t {
#define HAKMEM_FINDING(enumerator, name, condition, advice) enumerator,
#include "allocator/metrics/findings.def"
#undef HAKMEM_FINDING
  kCount
};
// What a guarded sample has shown that the program did.
enum class MemoryError : uint8_t { Overflow, Underflow, UseAfterFree, DoubleFree, InvalidFree, kCount };

// Why a reader leaves out a stats page.
enum class PageProblem : uint8_t {
  Unreadable,        // it cannot be opened or read
  NotAPage,          // something else under a page's name
  ForeignVersion,    // another layout
  ForeignCatalogue,  // another set of metrics
  Damaged,           // sizes that cannot be
  ForeignOwner,      // not its process's: of another user, or others may write to it
  kCount
};

template <class Enum>
inline constexpr uint32_t kCountOf = static_cast<uint32_t>(Enum::kCount);

// A histogram keeps, for each label value, its buckets and then its sum in ns.
// Bucket i counts times up to 2^(first_log2 + i * step_log2) ns; the last is +Inf.
inline constexpr uint32_t kHistogramBuckets = 18;
inline constexpr uint32_t kHistogramSlots = kHistogramBuckets + 1;
struct HistogramScale {
  uint32_t first_log2, step_log2;

  constexpr uint64_t bound(uint32_t bucket) const { return uint64_t{1} << (first_log2 + bucket * step_log2); }
};
inline constexpr HistogramScale kCallTimes{6, 1};   // 64 ns to 4 ms
inline constexpr HistogramScale kLifetimes{16, 2};  // 66 us to 78 hours

enum class LabelSet : uint8_t {
  None,
  SizeClass,
  SizeClassSource,
  SizeClassSlabState,
  SizeClassFragmentation,
  SizeClassOccupancy,
  Step,
  KernelCall,
  SlowCall,
  Lock,
  SuperslabState,
  BytesKind,
  Fragmentation,
  Occupancy,
  AtPeak,
  Part,
  KernelState,
  CgroupFigure,
  Finding,
  Build,
  Site,  // named as it comes
  PageProblem,
  MemoryError
};

// Number of label values; with two labels the second varies fastest.
constexpr uint32_t cardinality(LabelSet labels) {
  switch (labels) {
    case LabelSet::None: return 1;
    case LabelSet::SizeClass: return kSizeClassCount;
    case LabelSet::SizeClassSource: return kSizeClassCount * kCountOf<RefillSource>;
    case LabelSet::SizeClassSlabState: return kSizeClassCount * kCountOf<SlabState>;
    case LabelSet::SizeClassFragmentation: return kSizeClassCount * kCountOf<Fragmentation>;
    case LabelSet::SizeClassOccupancy: return kSizeClassCount * kCountOf<metrics::Occupancy>;
    case LabelSet::Step: return kCountOf<RefillStep>;
    case LabelSet::KernelCall: return kCountOf<metrics::KernelCall>;
    case LabelSet::SlowCall: return kCountOf<metrics::SlowCall>;
    case LabelSet::Lock: return kCountOf<metrics::Lock>;
    case LabelSet::SuperslabState: return kCountOf<metrics::SuperslabState>;
    case LabelSet::BytesKind: return kCountOf<metrics::BytesKind>;
    case LabelSet::Fragmentation: return kCountOf<metrics::Fragmentation>;
    case LabelSet::Occupancy: return kCountOf<metrics::Occupancy>;
    case LabelSet::AtPeak: return kCountOf<metrics::AtPeak>;
    case LabelSet::Part: return kCountOf<metrics::Part>;
    case LabelSet::KernelState: return kCountOf<metrics::KernelState>;
    case LabelSet::CgroupFigure: return kCountOf<metrics::CgroupFigure>;
    case LabelSet::Finding: return kCountOf<metrics::Finding>;
    case LabelSet::Build:
    case LabelSet::Site: return 1;
    case LabelSet::PageProblem: return kCountOf<metrics::PageProblem>;
    case LabelSet::MemoryError: return kCountOf<metrics::MemoryError>;
  }
  return 0;
}

enum class Metric : uint16_t {
#define HAKMEM_METRIC(enumerator, kind, storage, labels, name, help) enumerator,
#include "allocator/metrics/catalogue.def"
#undef HAKMEM_METRIC
  kCount
};

// What the allocator has to know of a row; names and help are MetricText.
struct MetricShape {
  Kind kind;
  Storage storage;
  LabelSet labels;

  constexpr uint32_t slots() const { return cardinality(labels) * (kind == Kind::Histogram ? kHistogramSlots : 1); }
};

inline constexpr std::array<MetricShape, kCountOf<Metric>> kShapes{{
#define HAKMEM_METRIC(enumerator, kind, storage, labels, name, help) {Kind::kind, Storage::storage, LabelSet::labels},
#include "allocator/metrics/catalogue.def"
#undef HAKMEM_METRIC
}};

constexpr const MetricShape& shape_of(Metric metric) { return kShapes[static_cast<size_t>(metric)]; }

// First slot of a metric among the 64-bit slots of its storage (Shard and
// Publish slots are numbered apart).
constexpr uint32_t first_slot(Metric metric) {
  uint32_t slot = 0;
  for (size_t i = 0; i < static_cast<size_t>(metric); ++i)
    if (kShapes[i].storage == shape_of(metric).storage) slot += kShapes[i].slots();
  return slot;
}

constexpr uint32_t slot_count(Storage storage) {
  uint32_t slots = 0;
  for (const MetricShape& shape : kShapes)
    if (shape.storage == storage) slots += shape.slots();
  return slots;
}

inline constexpr uint32_t kShardSlots = slot_count(Storage::Shard);
inline constexpr uint32_t kMaxShards = 32;  // of one process
inline constexpr uint32_t kPublishSlots = slot_count(Storage::Publish);

template <Metric metric>
inline constexpr uint32_t kFirstSlot = first_slot(metric);

constexpr HistogramScale scale_of(Metric metric) {
  return metric == Metric::kSampledLifetime ? kLifetimes : kCallTimes;
}

// Bucket of a time in nanoseconds.
constexpr uint32_t histogram_bucket(uint64_t nanoseconds, HistogramScale scale = kCallTimes) {
  uint32_t log2_ceiling = nanoseconds <= 1 ? 0 : 64 - static_cast<uint32_t>(__builtin_clzll(nanoseconds - 1));
  if (log2_ceiling <= scale.first_log2) return 0;
  uint32_t bucket = (log2_ceiling - scale.first_log2 + scale.step_log2 - 1) / scale.step_log2;
  return bucket < kHistogramBuckets ? bucket : kHistogramBuckets - 1;
}

// Names and help texts, for whoever shows metrics. Never used by the allocator,
// so the release library does not contain them.
struct MetricText {
  const char* name;
  const char* help;
};

inline constexpr std::array<MetricText, kCountOf<Metric>> kTexts{{
#define HAKMEM_METRIC(enumerator, kind, storage, labels, name, help) {name, help},
#include "allocator/metrics/catalogue.def"
#undef HAKMEM_METRIC
}};

inline constexpr std::array kRefillSourceNames{"own_frees", "remote_frees", "fresh_carve", "other_slab",
                                               "new_superslab"};
inline constexpr std::array kRefillStepNames{"scan", "map", "metadata", "carve"};
inline constexpr std::array kKernelCallNames{"mmap", "mprotect", "madvise", "mremap", "munmap"};
inline constexpr std::array kSlowCallNames{"malloc", "free"};
inline constexpr std::array kSuperslabStateNames{"active", "full", "empty", "purged"};
inline constexpr std::array kSlabStateNames{"free",    "current", "available", "sleeping",
                                            "unowned", "pooled",  "sampled",   "large"};
inline constexpr std::array kLockNames{"thread_registry", "shared_pool", "samples", "superslabs", "huge", "page_arena"};
inline constexpr std::array kBytesKindNames{"reserved", "committed", "in_use"};
inline constexpr std::array kFragmentationNames{"internal", "external"};
inline constexpr std::array kOccupancyNames{"0-25", "25-50", "50-75", "75-100"};
inline constexpr std::array kAtPeakNames{"live", "heap_resident"};
inline constexpr std::array kPartNames{
    "live",   "internal_fragmentation", "thread_cache", "slab_free", "empty_slab", "retained", "metadata", "telemetry",
    "outside"};
inline constexpr std::array kKernelStateNames{"huge_pages", "lazily_freed", "swapped"};
inline constexpr std::array kCgroupFigureNames{"current", "reclaimable", "limit", "distance"};
struct FindingText {
  const char* name;
  const char* advice;
};
inline constexpr std::array<FindingText, kCountOf<Finding>> kFindings{{
#define HAKMEM_FINDING(enumerator, name, condition, advice) {name, advice},
#include "allocator/metrics/findings.def"
#undef HAKMEM_FINDING
}};
inline constexpr std::array kPageProblemNames{"unreadable",        "not_a_page", "foreign_version",
                                              "foreign_catalogue", "damaged",    "foreign_owner"};
inline constexpr std::array kMemoryErrorNames{"overflow", "underflow", "use_after_free", "double_free", "invalid_free"};

static_assert(kRefillSourceNames.size() == kCountOf<RefillSource>);
static_assert(kRefillStepNames.size() == kCountOf<RefillStep>);
static_assert(kKernelCallNames.size() == kCountOf<KernelCall>);
static_assert(kSlowCallNames.size() == kCountOf<SlowCall>);
static_assert(kSuperslabStateNames.size() == kCountOf<SuperslabState>);
static_assert(kSlabStateNames.size() == kCountOf<SlabState>);
static_assert(kLockNames.size() == kCountOf<Lock>);
static_assert(kBytesKindNames.size() == kCountOf<BytesKind>);
static_assert(kFragmentationNames.size() == kCountOf<Fragmentation>);
static_assert(kOccupancyNames.size() == kCountOf<Occupancy>);
static_assert(kAtPeakNames.size() == kCountOf<AtPeak>);
static_assert(kPartNames.size() == kCountOf<Part>);
static_assert(kKernelStateNames.size() == kCountOf<KernelState>);
static_assert(kCgroupFigureNames.size() == kCountOf<CgroupFigure>);
static_assert(kPageProblemNames.size() == kCountOf<PageProblem>);
static_assert(kMemoryErrorNames.size() == kCountOf<MemoryError>);

}  // namespace hakmem::metrics
