// The read-only view of the heap that telemetry works from, and the hooks by
// which the allocator calls telemetry. The allocator's api/ fills in the view,
// telemetry's preload.cpp the hooks; neither includes the other.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/lock_stats.h"
#include "allocator/base/message.h"
#include "allocator/metrics/catalogue.h"

namespace hakmem::metrics {

// One slab, as read without a lock: each field is a value it had at some moment
// of the visit, and sums are clamped so that none is negative.
struct SlabView {
  uintptr_t address;
  size_t bytes;         // of the whole span
  uint32_t size_class;  // 0..kSlabClassCount-1, or kLargeClass
  SlabState state;
  uint32_t block_bytes;    // size of one object
  uint32_t capacity;       // objects that fit
  uint32_t carved;         // objects carved so far, from the start of the slab
  uint32_t used;           // objects handed out and not seen freed, thread caches included
  size_t requested_bytes;  // of a large allocation; else 0
  uint32_t remote = 0;     // objects freed by other threads that wait for its owner
};

struct SuperslabView {
  uintptr_t address;
  size_t bytes;
  SuperslabState state;
  uint64_t free_units_mask;   // bit i: unit i belongs to no slab
  uint64_t dirty_units_mask;  // of the free units: still holds pages
  size_t unit_bytes;
  uint32_t number = 0;  // its own among all that there ever were, from 0
  // The look during which anything that visit_slabs shows of it, or its units, changed last: if it was
  // none of the last two it stays what it is as long as this does.
  uint16_t changed_in = 0;
};

struct RangeView {
  uintptr_t address;
  size_t bytes;
};

struct HugeView {
  RangeView mapping;
  size_t requested_bytes;  // 0: a free mapping that is retained
};

struct ThreadCacheView {
  bool is_thread;                    // false: what ended threads left, or the cache that serves what they still do
  uint32_t listed[kSlabClassCount];  // objects waiting, by class
};

// Every function may be called from any thread at any time, takes no lock of
// the allocator and does not allocate. A visitor must not allocate through
// hakmem either.
struct HeapView {
  size_t (*class_bytes)(uint32_t size_class);  // 0 for large and huge
  // Begins a look at the heap, and returns its number, which wraps around. Looks do not overlap.
  uint16_t (*begin_look)();
  void (*visit_superslabs)(void (*visit)(void*, const SuperslabView&), void*);
  // All slabs of one superslab, in address order.
  void (*visit_slabs)(uintptr_t superslab, void (*visit)(void*, const SlabView&), void*);
  // The slab that stands at an address now; false when there is none.
  bool (*slab_at)(uintptr_t address, SlabView*);
  void (*visit_huge)(void (*visit)(void*, const HugeView&), void*);
  void (*visit_threads)(void (*visit)(void*, const ThreadCacheView&), void*);
  // Whole reservations of addresses (superslabs and their metadata), whatever is committed.
  void (*visit_reservations)(void (*visit)(void*, const RangeView&), void*);
  // Committed metadata ranges: slab records, thread caches, registries.
  void (*visit_metadata)(void (*visit)(void*, const RangeView&), void*);
  LockStatsView (*lock_stats)(Lock lock);
  // Free bytes that are held back from purging while so many are used, in superslabs and of huge mappings.
  size_t (*superslab_hold_back)(size_t used);
  size_t (*huge_hold_back)(size_t used);
  // No view: where so much is retained that only a busy program should keep it, gives some
  // of it back, once a second at most, as the program's own calls do.
  void (*let_time_pass)();
  // What the heap of private threads has of pages is here, and in no other figure; of no bytes before there is any.
  RangeView (*private_range)();
  // No view: the calling thread, which has not allocated yet, is private from now on. Nothing where that cannot be had.
  void (*leave_program)();
};

extern const HeapView heap_view;  // defined in api/

// A sampled allocation as the heap profile sees it; bytes.
struct Sample {
  const void* address;
  size_t requested;
  size_t allocated;
  // What decided that it is a sample: the probability was 1 - exp(-drawn / interval).
  // Less than `allocated` for a block that realloc made larger where it is: what it grew by.
  size_t drawn;
  uint32_t size_class;
  bool is_growth;
  // An address in the slab that it would have come from, had it been no sample; 0: not known, or it has no slab.
  uintptr_t beside = 0;
  // How often the interval was doubled when it was drawn: sample_interval(doublings).
  uint32_t doublings = 0;
};

// Called by the allocator on cold paths; null until telemetry installs them.
struct Hooks {
  // After each superslab_refill, large or huge allocation, of `bytes`, and at each thread's start and end, as if
  // a slab were made; on the thread that did it, with no lock of the allocator held. It may be
  // entered again if it allocates; keeps errno. Whether counters may have moved.
  bool (*on_transition)(size_t bytes);
  // Around fork, with all locks of the allocator held: before it, and after it in the parent.
  void (*on_fork)();
  void (*on_fork_parent)();
  // In a forked child, before anything else runs there.
  void (*on_fork_child)();
  // An allocation was sampled: on its thread, before the program has the block.
  void (*on_sample)(const Sample&);
  // A block that may be a sample is about to be free: nobody else can get its address yet.
  void (*on_sample_free)(const void* address);
  // realloc resized such a block, and moved it if the addresses differ; as above.
  void (*on_sample_resize)(const void* old_address, const void* address, size_t requested, size_t allocated);
  // Stores the return addresses of the stack, innermost first; how many. Also in a handler of signals.
  size_t (*capture_stack)(uintptr_t* addresses, size_t limit);
  // Appends which function and file an address of code is in. One thread at a time; in a handler, too.
  void (*name_code)(uintptr_t address, LineBuffer* line);
};
// The three of samples take no lock of the allocator and do not allocate through it; they
// may be called with such a lock held.

HAKMEM_HIDDEN extern Hooks hooks;  // defined in metrics/hooks.cc (not in release)

// Mean bytes allocated between two samples; 0 samples nothing. Any thread may
// change it; a countdown already drawn runs out first.
HAKMEM_HIDDEN extern std::atomic<uint64_t> sample_interval_bytes;

// How often that is doubled for now, where samples come too fast. Written by telemetry; any thread draws by it.
HAKMEM_HIDDEN extern std::atomic<uint32_t> sample_doublings;
inline uint64_t sample_interval(uint32_t doublings) {
  uint64_t bytes = sample_interval_bytes.load(std::memory_order_relaxed);
  return bytes > UINT64_MAX >> doublings ? UINT64_MAX : bytes << doublings;
}
inline uint64_t sample_interval() { return sample_interval(sample_doublings.load(std::memory_order_relaxed)); }

// Whether samples are guarded (thread_cache/guard.h). Any thread may change it; what is
// guarded stays so until it is free.
HAKMEM_HIDDEN extern std::atomic<bool> guards_samples;

inline constexpr uint64_t kDefaultSampleIntervalBytes = 512 * 1024;

}  // namespace hakmem::metrics
