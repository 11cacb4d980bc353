// Parked caches: those of threads that ended, as they left them, for threads that start.
//
// In a program whose threads come and go, one for each connection or request, one thread goes on with the blocks of
// another. If each gave its blocks and slabs to all at its end, those of threads on two processors would mix, and the
// processors wait for each other's cache lines. So a few caches stay as they are, and a thread that starts takes the
// one that was parked last on the processor where it runs (docs/measurements.md, Threads that come and go).
//
// What a parked cache holds serves nobody meanwhile, and what others free into its slabs comes back when it is emptied.
// So it is bounded; whoever needs a new slab has the cache that was parked longest emptied first, and one that was
// parked for more than a second goes when a thread looks for what it uses no more.
#include "allocator/thread_cache/internal.h"

namespace hakmem {
namespace {

constexpr uint32_t kMaxParked = 8;
constexpr size_t kMaxParkedBytes = 16 * kMiB;  // in the slabs of each

// Through ThreadCache::next_parked, the newest first.
constinit ThreadCache* parked_caches HAKMEM_GUARDED_BY(registry_lock) = nullptr;
constinit std::atomic<uint32_t> parked_count{0};  // written under registry_lock

ThreadCache* take_out(ThreadCache** link) HAKMEM_REQUIRES(registry_lock) {
  ThreadCache* cache = *link;
  *link = cache->next_parked;
  parked_count.store(parked_count.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
  // To a forked child it is a thread's that is not there.
  cache->use.store(ThreadCache::Use::kThread, std::memory_order_relaxed);
  return cache;
}

// The one that was parked longest, if it is to go; else null.
ThreadCache* take_oldest(Parked which) {
  LockGuard guard(registry_lock);
  ThreadCache** oldest = nullptr;
  for (ThreadCache** link = &parked_caches; *link != nullptr; link = &(*link)->next_parked) oldest = link;
  if (oldest == nullptr) return nullptr;
  if (which == Parked::kIdle && heap.age() - (*oldest)->parked_at < kSecondsBetweenLooks) return nullptr;
  return take_out(oldest);
}

size_t slab_bytes(const ThreadCache* cache) {
  size_t bytes = 0;
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    const ClassState& state = cache->classes[size_class];
    bytes += size_t{state.available_count + state.sleeping_count} * kClassShapes[size_class].units * kUnitBytes;
  }
  return bytes;
}

}  // namespace

void make_fit_to_park(ThreadCache* cache) {
  size_t bytes = slab_bytes(cache);
  for (uint32_t size_class = 0; bytes > kMaxParkedBytes; ++size_class) {
    ClassState& state = cache->classes[size_class];
    bytes -= size_t{state.available_count + state.sleeping_count} * kClassShapes[size_class].units * kUnitBytes;
    let_go_of_waiting(cache, state);
  }
}

bool park(ThreadCache* cache, int processor) {
  uint32_t count = parked_count.load(std::memory_order_relaxed);
  if (count == kMaxParked) return false;
  cache->parked_at = heap.age();
  cache->parked_on = processor;
  cache->next_parked = parked_caches;
  cache->use.store(ThreadCache::Use::kParked, std::memory_order_relaxed);
  parked_caches = cache;
  parked_count.store(count + 1, std::memory_order_relaxed);
  return true;
}

ThreadCache* take_parked(int processor) {
  ThreadCache** best = nullptr;
  for (ThreadCache** link = &parked_caches; *link != nullptr; link = &(*link)->next_parked) {
    if (best == nullptr || (*link)->parked_on == processor) best = link;
    if ((*link)->parked_on == processor) break;
  }
  return best == nullptr ? nullptr : take_out(best);
}

bool release_parked(const ThreadCache* own, Parked which) {
  if (parked_count.load(std::memory_order_relaxed) == 0 || is_late(own)) return false;
  bool is_any = false;
  while (ThreadCache* cache = take_oldest(which)) {
    is_any = true;
    cache->counters.follow_sink(cache->shard);
    flush(cache);
    LockGuard guard(registry_lock);
    cache->use.store(ThreadCache::Use::kFree, std::memory_order_relaxed);
    if (which != Parked::kAll) break;
  }
  return is_any;
}

}  // namespace hakmem
