// Shared by the cold files of this floor only.
#pragma once

#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// The thread's cache, starting the thread when it has none; null for a thread
// that has ended or when there is no memory for a cache.
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

// Returns the slab's frees to it: `slab` has a new baseline afterwards.
inline void settle_and_count(ThreadCache* cache, Slab* slab) {
  if (uint32_t frees = slab->settle(); frees != 0)
    cache->counters.add<metrics::Metric::kCollectedObjects>(slab->size_class, frees);
}

// Takes all remote frees of an owned, settled slab; `count` says how many. The
// blocks still count as used.
Block* take_remote(ThreadCache* cache, Slab* slab, uint32_t& count);

// Moves the remote frees of an owned, settled slab to its own list.
void collect_remote(ThreadCache* cache, Slab* slab);

// Returns an owned slab without live blocks, in no list, to its superslab.
void retire(ThreadCache* cache, Slab* slab);

// Gives up an owned, settled slab that is in no list: retired, pooled or unowned.
void let_go(ThreadCache* cache, Slab* slab);

// After settling and collecting: brings an owned slab in no list to where it
// belongs. The caller may not own it any more afterwards.
void place(ThreadCache* cache, Slab* slab);

// Marks a settled slab in no list unowned. False when a remote free came in
// between: then the caller owns a slab, settled and collected, and has to place
// it; it may have become one of another class.
bool abandon(ThreadCache* cache, Slab* slab);

// In the child of a fork, later: gives the slabs of the parent's other threads to the pool.
void adopt_orphans(ThreadCache* cache);

// Whether this is the cache of ended threads.
bool is_late(const ThreadCache* cache);

// Whether more than one thread has a cache now.
bool has_other_threads();

void call_transition_hook();

}  // namespace hakmem
