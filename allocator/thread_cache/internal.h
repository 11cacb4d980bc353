// Shared by the cold files of this floor only.
#pragma once

#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/sampling.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// The thread's cache, starting the thread when it has none; null for a thread
// that has ended or is private, or when there is no memory for a cache.
HAKMEM_COLD ThreadCache* start_thread();

inline ThreadCache* current_cache() {
  ThreadCache* cache = thread_state.cache;
  return cache != &empty_cache ? cache : start_thread();
}

// The cache that serves threads after their end (and before memory for a cache
// could be had). Use it under `registry_lock`, and as `thread_state.cache` for
// that time, so that the ordinary paths work on it.
extern RankedLock registry_lock;

class LateCacheScope {
 public:
  LateCacheScope() HAKMEM_NO_THREAD_ANALYSIS;
  ~LateCacheScope() HAKMEM_NO_THREAD_ANALYSIS;
  LateCacheScope(const LateCacheScope&) = delete;
  LateCacheScope& operator=(const LateCacheScope&) = delete;
};

// Where it stands: an index into slab_map_records, if it is below slab_map_units.
inline size_t unit_of(const Block* block) { return (reinterpret_cast<uintptr_t>(block) - slab_map_base) >> kUnitShift; }

// The slab of a block, live or free.
HAKMEM_INLINE Slab* slab_of(const Block* block) {
  size_t unit = unit_of(block);
  if (unit >= slab_map_units) [[unlikely]]
    return heap.superslabs.find(reinterpret_cast<uintptr_t>(block));
  return slab_map_records[unit].head();
}

// The thread has become the owner of the slab.
inline void set_bin(ThreadCache* cache, Slab* slab) {
  slab->bin = &cache->bins[slab->size_class];
  cache->classes[slab->size_class].is_used = true;
}

// Says how many frees may come until the next look at the bin: `room`, and the one that looks. In
// builds with statistics its allocations have just been counted.
inline void offer_room(ThreadCache* cache, uint32_t size_class, uint32_t room) {
  if constexpr (kBuild.stats) {
    auto& countdown = cache->classes[size_class].countdown;
    uint32_t to_come = countdown.until_sample - cache->blocks_in_bin(size_class);
    room = std::min(room, to_come);
    countdown.not_offered = static_cast<int32_t>(to_come - room) - 1;
  }
  cache->bins[size_class].frees_left = room + 1;
}
inline void offer_bin(ThreadCache* cache, uint32_t size_class) {
  bool is_big = kBinShapes[size_class].is_big;
  offer_room(cache, size_class, is_big ? 0 : cache->classes[size_class].bin_limit - cache->blocks_in_bin(size_class));
}

// Gives the newest blocks of a bin back to their slabs, all but `kept`.
void trim_bin(ThreadCache* cache, uint32_t size_class, uint32_t kept);

// Gives back what the thread has of classes that it does not use, some of it; called until it is through. Where
// no bin, slab or list of the thread is half changed.
HAKMEM_COLD void release_idle(ThreadCache* cache);
inline constexpr uint32_t kSecondsBetweenLooks = 2;  // more than one goes by between two looks then
inline void look_for_idle(ThreadCache* cache) {
  if (heap.age() - cache->age >= kSecondsBetweenLooks) [[unlikely]]
    release_idle(cache);
}

// Gives pooled blocks back to their slabs: all, or those that nobody asked for.
enum class Drain : uint8_t { kAll, kIdle };
HAKMEM_COLD void drain_pool(ThreadCache* cache, Drain drain);

// The slot before the top: see free_owned().
inline void push(Bin& bin, Block* block) {
  block->mark_free();
  bin.top[-1] = block;
  std::atomic_signal_fence(std::memory_order_release);
  --bin.top;
}

// Puts a block that is being freed into the thread's bin, whoever owns its slab.
inline void put_into_bin(ThreadCache* cache, Slab* slab, Block* block) {
  Bin& bin = cache->bins[slab->size_class];
  if (--bin.frees_left == 0) return free_counted_out(block, slab);
  push(bin, block);
}

// Gives blocks that were freed, and are in no bin any more, back to their slabs.
// What is no block of the class, or has come back already, is a misuse of the past.
void return_to_slabs(ThreadCache* cache, uint32_t size_class, Block* const* blocks, uint32_t count);

// Says what is no block in the bins of the thread, the caller's, and in the pool if
// there is no other thread.
HAKMEM_COLD void check_bins(const ThreadCache* cache);

// The same for a slab that somebody else owns, or nobody; `owner_word` is what it said.
void give_back(ThreadCache* cache, Slab* slab, Block* block, uintptr_t owner_word);

// The countdown of an owned slab has run out, which may bring it to another state.
void settle_slab(ThreadCache* cache, Slab* slab);

// Returns the slab's frees to it: `slab` has a new baseline afterwards.
inline void settle_and_count(ThreadCache* cache, Slab* slab) {
  if (uint32_t frees = slab->settle(); frees != 0)
    cache->counters.add<metrics::Metric::kCollectedObjects>(slab->size_class, frees);
}

// What is wrong with a pointer into a slab that finds the free key there; kCount when
// nothing is: then the program wrote just that into a live block. Any thread, as of some moment.
HAKMEM_COLD Message misuse_at_key(Slab* slab, const Block* block);

// Moves the remote frees of an owned, settled slab to its own list.
void collect_remote(ThreadCache* cache, Slab* slab);

// Returns an owned slab without live blocks, in no list, to its superslab.
void retire(ThreadCache* cache, Slab* slab);

// Gives up the available and the sleeping slabs of a class.
void let_go_of_waiting(ThreadCache* cache, ClassState& state);

// Gives up an owned, settled slab that is in no list: retired, pooled or unowned.
void let_go(ThreadCache* cache, Slab* slab);
// The same for the current slab of a class, which has one.
void let_go_of_current(ThreadCache* cache, ClassState& state);

// After settling and collecting: brings an owned slab in no list to where it
// belongs. The caller may not own it any more afterwards.
void place(ThreadCache* cache, Slab* slab);

// Looks at some of the slabs that have slept longest, and leaves what the thread should not keep to others. Returns
// how many blocks had come back to them.
uint32_t tidy_class(ThreadCache* cache, uint32_t size_class);

// Leaves the slab that has been available longest to others, if it is not empty. Whether it went there.
bool let_go_of_available(ThreadCache* cache, ClassState& state);

// Marks a settled slab in no list unowned. False when a remote free came in
// between: then the caller owns a slab, settled and collected, and has to place
// it; it may have become one of another class.
bool abandon(ThreadCache* cache, Slab* slab);

// In the child of a fork, later: gives the slabs of the parent's other threads to the pool.
void adopt_orphans(ThreadCache* cache);

// Empties the bins of a cache and gives its slabs up. The caller's, or one that no thread uses.
void flush(ThreadCache* cache);

// -- caches of ended threads, see parked.cc --------------------------------------------------------

// Gives up slabs that are more than a parked cache may have. By the thread that ends, before park().
void make_fit_to_park(ThreadCache* cache);

// Leaves the cache of a thread that ends as it is; false where enough are. By the thread, on that processor.
bool park(ThreadCache* cache, int processor) HAKMEM_REQUIRES(registry_lock);

// For a thread that starts on that processor; null when none is parked.
ThreadCache* take_parked(int processor) HAKMEM_REQUIRES(registry_lock);

// Flushes the one that was parked longest, whenever or if it was more than a second ago, or all. Whether there was
// any. Where no bin, slab or list of the caller's is half changed; `own` is the caller's cache.
enum class Parked : uint8_t { kOldest, kIdle, kAll };
HAKMEM_COLD bool release_parked(const ThreadCache* own, Parked which);

// Whether this is the cache of ended threads.
bool is_late(const ThreadCache* cache);

// How many threads have a cache now; 0 when the last one has ended.
uint32_t thread_count();
inline bool has_other_threads() { return thread_count() > 1; }

// Whether threads share the free blocks of the class. While few threads run each keeps its own.
HAKMEM_HIDDEN extern std::atomic<uint32_t> first_shared_class;  // set with the number of threads
inline bool is_shared(uint32_t size_class) { return size_class >= first_shared_class.load(std::memory_order_relaxed); }

// `bytes` of fresh memory were taken, or so much will be: a thread starts or ends.
void call_transition_hook(size_t bytes);

// -- hardened builds ------------------------------------------------------------------------------

// Gives all blocks of the quarantine back to their slabs.
HAKMEM_COLD void flush_quarantine(ThreadCache* cache);

// Says what was written to there.
HAKMEM_COLD void check_quarantine(const ThreadCache* cache);

// Puts the blocks of a bin, which a refill brought, into an order that nobody can tell.
void shuffle_bin(ThreadCache* cache, uint32_t size_class);

}  // namespace hakmem
