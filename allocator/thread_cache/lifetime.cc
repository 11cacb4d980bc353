// Threads and processes: the start and the end of a thread cache, and fork.
#include "allocator/thread_cache/lifetime.h"
#include "allocator/base/environment.h"
#include "allocator/page_arena/purge_policy.h"
#include "allocator/platform/memory_limit.h"
#include "allocator/platform/process.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/private_thread.h"
#include "allocator/thread_cache/sampling.h"

#include <errno.h>

#include <new>

namespace hakmem {

constinit RankedLock registry_lock{LockRank::kThreadRegistry};

namespace {
constinit Block* const empty_slot = nullptr;
constinit Block* late_slots[kBinSlots]{};
}  // namespace

constexpr ThreadCache::ThreadCache(Nobody) : slots(nullptr) {
  for (Bin& bin : bins) bin = {const_cast<Block**>(&empty_slot), 1};
}
constinit const ThreadCache empty_cache{ThreadCache::Nobody{}};
constinit std::atomic<uint32_t> first_shared_class{kSizeClassCount};
constinit thread_local ThreadState thread_state{const_cast<ThreadCache*>(&empty_cache), ThreadPhase::kNew};

namespace {

// Made when it is needed for the first time: until then the loader has nothing to relocate in it.
union LateCache {
  constexpr LateCache() : none() {}
  char none;
  ThreadCache cache;
};
constinit LateCache late_memory;
constexpr ThreadCache& late_cache = late_memory.cache;
constinit std::atomic<bool> is_late_cache_made{false};  // written under registry_lock
constinit bool secrets_drawn HAKMEM_GUARDED_BY(registry_lock) = false;
constinit bool process_started HAKMEM_GUARDED_BY(registry_lock) = false;
constinit uint32_t caches_created HAKMEM_GUARDED_BY(registry_lock) = 0;
constinit std::atomic<uint32_t> threads_running{0};  // written under registry_lock
// Under registry_lock, which fork holds where the analysis cannot see it.
void set_threads_running(uint32_t count) {
  threads_running.store(count, std::memory_order_relaxed);
  heap.superslabs.set_thread_count(count);
  bool are_many = count > HugePagePolicy::kFewThreads;
  first_shared_class.store(are_many ? size_class_of(kSharedBlockBytes + 1) : kSizeClassCount,
                           std::memory_order_relaxed);
}
// Set in a forked child whose parent had other threads.
constinit std::atomic<bool> orphans_pending{false};

// By rank.
RankedLock* lock_of(uint32_t rank) {
  switch (static_cast<LockRank>(rank)) {
    case LockRank::kThreadRegistry: return &registry_lock;
    case LockRank::kSharedPool: return &heap.pool.lock();
    case LockRank::kSamples: return &sampled_slabs.lock;
    case LockRank::kSuperslabs: return &heap.superslabs.lock();
    case LockRank::kHuge: return &heap.huge.lock();
    case LockRank::kPageArena: return &heap.arena.lock();
    case LockRank::kPrivateHeap: return kBuild.stats ? &private_heap.lock() : nullptr;
    case LockRank::kCount: break;
  }
  return nullptr;
}
constexpr auto kLocks = static_cast<uint32_t>(kBuild.stats ? LockRank::kCount : LockRank::kPrivateHeap);

// What lock_all() took, a bit for each rank, and whether it called the hook; a fork in a
// signal handler that interrupts another fork is pushed above it.
constinit thread_local uint64_t taken_for_forks [[gnu::tls_model("initial-exec")]] = 0;
constexpr uint32_t kHookBit = kLocks, kBitsOfFork = kLocks + 1;
constexpr uint64_t kRegistryBit = uint64_t{1} << static_cast<uint32_t>(LockRank::kThreadRegistry);

// A signal handler may fork in the middle of a section (it is in the list of
// signal-safety(7)), and whoever reports a crash does. A lock that its own thread holds
// stays held, and the call it interrupted goes on under it in both processes. What ranks
// below it is not waited for, or two threads could wait for each other; a lock that
// another thread has at that moment is not open in the child, which may call no more than
// a signal handler may, as its parent has threads.
void lock_all() HAKMEM_NO_THREAD_ANALYSIS {
  uint32_t own = 0;
  for (uint32_t rank = 0; rank < kLocks; ++rank) own |= uint32_t{lock_of(rank)->is_mine()} << rank;
  uint32_t taken = 0;
  for (uint32_t rank = 0; rank < kLocks; ++rank) {
    uint32_t own_from_here = own >> rank;
    if ((own_from_here & 1) != 0) continue;
    if (own_from_here == 0)
      lock_of(rank)->lock();
    else if (!lock_of(rank)->try_lock())
      continue;
    taken |= 1u << rank;
  }
  uint64_t outer = taken_for_forks;
  taken_for_forks = outer << kBitsOfFork | taken;
  if constexpr (kBuild.stats) {
    // By one fork at a time.
    if (metrics::hooks.on_fork == nullptr || outer != 0 || ((own | taken) & kRegistryBit) == 0) return;
    taken_for_forks |= uint64_t{1} << kHookBit;
    metrics::hooks.on_fork();
  }
}

void unlock_all() HAKMEM_NO_THREAD_ANALYSIS {
  uint64_t taken = taken_for_forks;
  taken_for_forks = taken >> kBitsOfFork;
  for (uint32_t rank = kLocks; rank-- > 0;)
    if ((taken >> rank & 1) != 0) lock_of(rank)->unlock();
}

void after_fork_in_parent() {
  if constexpr (kBuild.stats) {
    if ((taken_for_forks >> kHookBit & 1) != 0) metrics::hooks.on_fork_parent();
  }
  unlock_all();
}

// The threads of the parent do not exist here; what they owned is adopted when
// fresh memory is needed, so that a child that only calls exec pays nothing.
void leave_threads_behind() {
  for (ThreadCache* cache = registered_caches.load(std::memory_order_relaxed); cache != nullptr;
       cache = cache->next_registered) {
    if (cache == thread_state.cache || cache->use.load(std::memory_order_relaxed) != ThreadCache::Use::kThread)
      continue;
    cache->use.store(ThreadCache::Use::kOrphan, std::memory_order_relaxed);
    orphans_pending.store(true, std::memory_order_relaxed);
  }
  set_threads_running(thread_state.phase == ThreadPhase::kRunning ? 1 : 0);
}

void after_fork_in_child() {
  if constexpr (kBuild.stats) {
    if (metrics::hooks.on_fork_child != nullptr) metrics::hooks.on_fork_child();
    if (thread_state.phase == ThreadPhase::kRunning)
      thread_state.cache->counters.follow_sink(thread_state.cache->shard);
    if (is_late_cache_made.load(std::memory_order_relaxed)) late_cache.counters.follow_sink(late_cache.shard);
  }
  // Else the thread was interrupted while it changes the list itself, and goes on with that, or another was.
  if ((taken_for_forks & kRegistryBit) != 0) leave_threads_behind();
  unlock_all();
}

// A thread that starts looks at its classes anew.
ThreadCache* as_new(ThreadCache* cache) {
  cache->use.store(ThreadCache::Use::kThread, std::memory_order_relaxed);
  cache->age = heap.age();
  cache->next_to_look_at = 0;
  return cache;
}

ThreadCache* take_cache(int processor) HAKMEM_REQUIRES(registry_lock) {
  if (ThreadCache* cache = take_parked(processor); cache != nullptr) return cache;
  for (ThreadCache* cache = registered_caches.load(std::memory_order_relaxed); cache != nullptr;
       cache = cache->next_registered)
    if (cache->use.load(std::memory_order_relaxed) == ThreadCache::Use::kFree) return as_new(cache);
  // Fresh metadata is zero, as the slots of bins have to be.
  void* memory = heap.arena.allocate_metadata(sizeof(ThreadCache) + kBinSlots * sizeof(Block*));
  if (memory == nullptr) return nullptr;
  auto* slots = reinterpret_cast<Block**>(static_cast<char*>(memory) + sizeof(ThreadCache));
  auto* cache = new (memory) ThreadCache(slots);
  cache->shard = ++caches_created;
  Registry<>::add(registered_caches, cache);
  return as_new(cache);
}

void flush_bins(ThreadCache* cache) {
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    ClassState& state = cache->classes[size_class];
    if (!state.is_used) continue;
    if constexpr (kBuild.stats) count_allocations(cache, size_class);
    trim_bin(cache, size_class, 0);
    // Another thread may have the cache next, which need not only pass blocks on as this one did.
    state.bin_limit = std::max(state.bin_limit, std::min(kBinShapes[size_class].capacity, kFirstBinLimit));
    state.to_send_home = -kSentHome;
    offer_room(cache, size_class, 0);  // the first free says that the class is used
  }
}

void let_go_of_all(ThreadCache* cache, SlabList& slabs) {
  while (Slab* slab = slabs.pop_front()) {
    settle_and_count(cache, slab);
    let_go(cache, slab);
  }
}

}  // namespace

void let_go_of_waiting(ThreadCache* cache, ClassState& state) {
  let_go_of_all(cache, state.available);
  state.available_count = state.sleeping_count = state.least_available = 0;
  let_go_of_all(cache, state.sleeping);
}

void flush(ThreadCache* cache) {
  if constexpr (has(Mitigation::kDelayedReuse)) flush_quarantine(cache);
  flush_bins(cache);
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    ClassState& state = cache->classes[size_class];
    if (!state.is_used) continue;
    if (state.current != nullptr) let_go_of_current(cache, state);
    let_go_of_waiting(cache, state);
    state.taken = 0;
    state.refilled_at = 0;
    state.kept_slabs = {};
    state.has_overflowed = false;
    state.is_used = false;
  }
}

namespace {

void end_thread() {
  if (thread_state.phase != ThreadPhase::kRunning) return;
  int saved_errno = errno;
  call_transition_hook(kUnitBytes);
  ThreadCache* cache = thread_state.cache;
  // What still comes, libc's own last frees and destructors that asked for even
  // more rounds, finds an ended thread and uses the late cache.
  thread_state = {const_cast<ThreadCache*>(&empty_cache), ThreadPhase::kExited};
  make_fit_to_park(cache);
  int processor = current_processor();
  // The next thread with this cache takes it under the lock, and sees it as it was left.
  registry_lock.lock();
  if (!park(cache, processor)) {
    registry_lock.unlock();
    flush(cache);
    registry_lock.lock();
    cache->use.store(ThreadCache::Use::kFree, std::memory_order_relaxed);
  }
  // None where a signal handler forked right before, and this is the child.
  if (uint32_t count = threads_running.load(std::memory_order_relaxed); count != 0) set_threads_running(count - 1);
  registry_lock.unlock();
  errno = saved_errno;
}

bool is_orphan(uintptr_t owner_word) {
  return owner_word >= owner::kFirstThread &&
         reinterpret_cast<ThreadCache*>(owner_word)->use.load(std::memory_order_relaxed) == ThreadCache::Use::kOrphan;
}

// Gives the blocks in the bins and the quarantine of an orphan back to their slabs. Those that an
// orphan owns, itself or another, are put in order later.
void adopt_bins(ThreadCache* cache, ThreadCache* orphan) {
  auto adopt = [cache](uint32_t size_class, Block* block) {
    Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(block));
    block->mark_free();
    if (!is_orphan(slab->owner.load(std::memory_order_relaxed)))
      return_to_slabs(cache, size_class, &block, 1);
    else if (slab->size_class == size_class)
      slab->try_put_free(block, slab->shape());
  };
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class)
    for (Block** slot = orphan->bins[size_class].top; slot < orphan->bottom(size_class); ++slot)
      if (*slot != nullptr) adopt(size_class, *slot);  // null: a sample
  orphan->quarantine.take_all(adopt);
}

void adopt_orphan(ThreadCache* cache, Slab* slab) {
  // Stopped in the middle of a change, perhaps: what stands nowhere then is
  // lost to the child, as if the program used it.
  slab->next = slab->previous = nullptr;
  slab->free_word = 0;
  slab->used = slab->carved - slab->count_free();
  slab->set_countdown(kNoThreshold);
  slab->superslab->mark_changed();
  slab->owner.store(cache->tag(), std::memory_order_relaxed);
  let_go(cache, slab);
}

// What is wrong and was not looked at in time: see return_to_slabs().
[[gnu::destructor]] void check_at_exit() {
  if (thread_state.phase != ThreadPhase::kRunning) return;
  uint32_t own = 0;  // locks; exit() in a signal handler may have interrupted what holds them
  for (uint32_t rank = 0; rank < kLocks; ++rank) own |= uint32_t{lock_of(rank)->is_mine()};
  if (own == 0) release_parked(thread_state.cache, Parked::kAll);
  check_bins(thread_state.cache);
  if constexpr (has(Mitigation::kDelayedReuse)) check_quarantine(thread_state.cache);
}

}  // namespace

constinit std::atomic<ThreadCache*> registered_caches{nullptr};

ThreadCache* start_thread() {
  if (thread_state.phase == ThreadPhase::kExited || is_private_thread()) return nullptr;
  bool is_first = false;
  ThreadCache* cache = nullptr;
  uint64_t seed = random_secret();
  int processor = current_processor();
  {
    LockGuard guard(registry_lock);
    if (!secrets_drawn) {
      secrets_drawn = true;
      link_secret = random_secret();
      free_key = random_secret() | 1;
    }
    cache = take_cache(processor);
    if (cache != nullptr) {
      set_threads_running(threads_running.load(std::memory_order_relaxed) + 1);
      is_first = !process_started;
      process_started = true;
      if (is_first) heap.superslabs.prime();
      cache->random = RandomGenerator(seed);
      cache->counters.follow_sink(cache->shard);
      // Under the lock: a child that a signal handler forks finds the cache taken and
      // this thread its user, or neither.
      thread_state = {cache, ThreadPhase::kRunning};
    }
  }
  if (cache == nullptr) return nullptr;
  if (is_first) {
    // Registered before any other handler, so that these hold the locks only
    // while nothing else of the program runs.
    register_fork_handlers(lock_all, after_fork_in_parent, after_fork_in_child);
    set_thread_exit(end_thread);
    check_environment();
    // Written only where there is one: most processes touch no page for it.
    if (size_t limit = container_memory_limit(); limit != SIZE_MAX) PurgePolicy::limit_memory(limit);
    if constexpr (kBuild.stats) {
      if (is_set(Variable::kSampleBytes))
        metrics::sample_interval_bytes.store(environment_number(Variable::kSampleBytes), std::memory_order_relaxed);
      metrics::guards_samples.store(environment_number(Variable::kGuard) != 0, std::memory_order_relaxed);
    }
  }
  watch_thread_exit();
  cache->counters.count<metrics::Metric::kThreadsStarted>();
  call_transition_hook(kUnitBytes);
  return cache;
}

void flush_thread_cache() {
  bool has_cache = thread_state.phase == ThreadPhase::kRunning;
  if (has_cache) flush(thread_state.cache);
  release_parked(thread_state.cache, Parked::kAll);
  if (has_cache) drain_pool(thread_state.cache, Drain::kAll);
}

void adopt_orphans(ThreadCache* cache) {
  if (!orphans_pending.load(std::memory_order_relaxed)) [[likely]]
    return;
  if (is_late(cache)) return;  // the lock is held; an ordinary thread will do it
  LockGuard guard(registry_lock);
  if (!orphans_pending.exchange(false, std::memory_order_relaxed)) return;
  for (ThreadCache* orphan = registered_caches.load(std::memory_order_relaxed); orphan != nullptr;
       orphan = orphan->next_registered)
    if (orphan->use.load(std::memory_order_relaxed) == ThreadCache::Use::kOrphan) adopt_bins(cache, orphan);
  for (uint32_t r = 0; r < heap.arena.reservation_count(); ++r) {
    const Reservation& reservation = heap.arena.reservation(r);
    auto* slabs = reinterpret_cast<Slab*>(reservation.metadata);
    size_t units = size_t{reservation.committed.load(std::memory_order_acquire)} * kUnitsPerSuperslab;
    for (size_t i = 0; i < units; ++i) {
      if (is_orphan(slabs[i].owner.load(std::memory_order_relaxed))) adopt_orphan(cache, &slabs[i]);
    }
  }
  for (ThreadCache* orphan = registered_caches.load(std::memory_order_relaxed); orphan != nullptr;
       orphan = orphan->next_registered) {
    if (orphan->use.load(std::memory_order_relaxed) != ThreadCache::Use::kOrphan) continue;
    for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) orphan->start_class(size_class);
    orphan->big_bytes = 0;
    orphan->use.store(ThreadCache::Use::kFree, std::memory_order_relaxed);
  }
}

bool is_late(const ThreadCache* cache) { return cache == &late_cache; }

uint32_t thread_count() { return threads_running.load(std::memory_order_relaxed); }

void call_transition_hook(size_t bytes) {
  if constexpr (kBuild.stats) {
    if (metrics::hooks.on_transition == nullptr || thread_state.phase != ThreadPhase::kRunning) return;
    // It may have made the stats page, or left it: in a child that bypassed the fork handlers.
    if (metrics::hooks.on_transition(bytes)) [[unlikely]]
      thread_state.cache->counters.follow_sink(thread_state.cache->shard);
  }
}

LateCacheScope::LateCacheScope() {
  registry_lock.lock();
  if (!is_late_cache_made.load(std::memory_order_relaxed)) {
    new (&late_cache) ThreadCache(late_slots);
    late_cache.use.store(ThreadCache::Use::kLate, std::memory_order_relaxed);
    late_cache.counters.follow_sink(late_cache.shard);
    is_late_cache_made.store(true, std::memory_order_relaxed);
    Registry<>::add(registered_caches, &late_cache);
  }
  thread_state.cache = &late_cache;
}

LateCacheScope::~LateCacheScope() {
  thread_state.cache = const_cast<ThreadCache*>(&empty_cache);
  registry_lock.unlock();
}

}  // namespace hakmem
