// Refill: where an empty bin gets its blocks from, in the order of cost.
//
//   0. what the shared pool has of the class
//   1. what came back to the current slab from bins: from its free map
//   2. what others freed into it: from its remote list
//   3. blocks of it that were never used: carved no further than handed out
//   4. another slab: available, woken by remote frees, or from the shared pool
//   5. superslab_refill: a new slab
#include <errno.h>
#include <string.h>

#include <algorithm>

#include "allocator/base/probe.h"
#include "allocator/platform/clock.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/private_thread.h"

namespace hakmem {
namespace {

using metrics::RefillSource;

// What a refill has put into the bin.
struct Batch {
  uint32_t count;
  RefillSource source;
};

// Sleeping slabs looked at for remote frees before fresh memory is taken.
constexpr uint32_t kSleepersToCheck = 4;

// Fills the bin from the slab's free map. The map loses the blocks before the bin
// has them: in a child forked in between, blocks may be lost but never stand in
// two places.
uint32_t take_listed(Bin& bin, Slab* slab, uint32_t limit) {
  uint32_t listed = slab->listed() < limit ? slab->listed() : limit;
  uint32_t count = slab->take_free(bin.top - listed, listed);
  if (count < listed) [[unlikely]]
    memmove(bin.top - count, bin.top - listed, count * sizeof(Block*));
  std::atomic_signal_fence(std::memory_order_release);
  bin.top -= count;
  return count;
}

// Of a slab without pages, `bytes` more are carved from `address` on; those pages are touched now.
void count_first_touch(const ThreadCache* cache, const Slab* slab, uintptr_t address, size_t bytes) {
  if (!slab->zeroed) return;
  size_t pages = (address + bytes - 1) / kPageBytes - (address - 1) / kPageBytes;
  if (pages != 0) cache->counters.count<metrics::Metric::kFirstTouchedPages>(pages);
}

// Carves up to `limit` blocks; `is_growing`: as the last refill of the class did.
uint32_t carve(ThreadCache* cache, Bin& bin, Slab* slab, uint32_t limit, [[maybe_unused]] bool is_growing) {
  const ClassShape& shape = slab->shape();
  slab->carve_time.start();
  uint32_t count = shape.capacity - slab->carved;
  if (count > limit) count = limit;
  uintptr_t address = slab->start + size_t{slab->carved} * shape.block_bytes;
  if constexpr (kBuild.stats) count_first_touch(cache, slab, address, size_t{count} * shape.block_bytes);
  // Each page will be written to, and without huge pages each would be a fault.
  if (has(Mitigation::kGuardPages) && slab->zeroed && slab->carved == 0 && is_growing)
    SystemMemory::populate(reinterpret_cast<void*>(slab->start),
                           align_up(size_t{shape.capacity} * shape.block_bytes, kPageBytes));
  // What stands there was cleared as other blocks, whose keys are left.
  if (has(Mitigation::kZeroOnFree) && !slab->zeroed)
    memset(reinterpret_cast<void*>(address), 0, size_t{count} * shape.block_bytes);
  Block** top = bin.top - count;
#pragma GCC unroll 4
  for (uint32_t i = 0; i < count; ++i, address += shape.block_bytes) {
    top[i] = reinterpret_cast<Block*>(address);
    top[i]->mark_free();
  }
  std::atomic_ref(slab->carved).store(slab->carved + count, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_release);
  bin.top = top;
  slab->carve_time.stop();
  if (slab->carved == shape.capacity) {
    heap.superslabs.slab_carved_to_end(slab);
    slab->carve_time.observe(cache->shard);
  }
  return count;
}

// Puts at most `limit` blocks of an owned slab into its class's bin, which is
// empty; count 0 when the slab is exhausted.
Batch take_batch(ThreadCache* cache, Slab* slab, uint32_t limit) {
  Bin& bin = cache->bins[slab->size_class];
  HAKMEM_ASSERT(cache->blocks_in_bin(slab->size_class) == 0);
  settle_and_count(cache, slab);
  Batch batch{0, RefillSource::OwnFrees};
  if (slab->listed() == 0) {
    batch.source = RefillSource::RemoteFrees;
    collect_remote(cache, slab);
  }
  ClassState& state = cache->classes[slab->size_class];
  uint32_t& doublings = state.carve_doublings;
  if (slab->listed() != 0) {
    doublings = 0;
    batch.count = take_listed(bin, slab, limit);
  } else if (slab->carved < slab->shape().capacity) {
    uint32_t least = slab->shape().refill_objects;
    uint32_t fresh = least << doublings;
    // Of the first slab not much more than was needed before: many threads have one of many classes.
    if (state.taken <= 1) fresh = std::min(fresh, std::max(least, slab->carved / 2));
    bool is_growing = doublings > 0;
    if (doublings < kRefillDoublings) ++doublings;
    batch = {carve(cache, bin, slab, fresh < limit ? fresh : limit, is_growing), RefillSource::FreshCarve};
  }
  slab->used += batch.count;
  slab->set_countdown(slab->used);  // when all of them came back it is not kept
  slab->superslab->mark_changed();
  HAKMEM_ASSERT(slab->is_consistent());
  return batch;
}

// A sleeping slab that remote frees have made worth refilling from.
Slab* woken_sleeper(ClassState& state) {
  Slab* slab = state.sleeping.first();
  for (uint32_t i = 0; slab != nullptr && i < kSleepersToCheck; ++i, slab = slab->next) {
    if (RemoteList::count(slab->remote.load(std::memory_order_relaxed)) < slab->shape().wake_threshold) continue;
    state.sleeping.remove(slab);
    --state.sleeping_count;
    return slab;
  }
  return nullptr;
}

struct NextSlab {
  Slab* slab;
  RefillSource source;
};

NextSlab next_slab(ThreadCache* cache, ClassState& state, uint32_t size_class) {
  Slab* slab = state.available.pop_front();
  if (slab != nullptr)
    --state.available_count;
  else
    slab = woken_sleeper(state);
  state.least_available = std::min(state.least_available, state.available_count);
  if (slab == nullptr) {
    state.kept_slabs.taken(size_class);
    slab = heap.pool.take(size_class, cache->tag());
    if (slab == nullptr && release_parked(cache, Parked::kOldest)) slab = heap.pool.take(size_class, cache->tag());
    if (slab != nullptr) {
      ++state.taken;
      if (!is_shared(size_class)) cache->counters.count<metrics::Metric::kSlabAdoptions>();
    }
  }
  if (slab != nullptr) {
    set_bin(cache, slab);
    slab->state = SlabState::Current;
    return {slab, RefillSource::OtherSlab};
  }
  adopt_orphans(cache);
  uint32_t units = kClassShapes[size_class].units;
  slab = heap.take_span(units, SlabState::Current, size_class, cache->shard);
  if (slab == nullptr && release_parked(cache, Parked::kAll))
    slab = heap.take_span(units, SlabState::Current, size_class, cache->shard);
  // Relaxed: no other thread knows a block of this slab yet.
  if (slab != nullptr) {
    ++state.taken;
    slab->owner.store(cache->tag(), std::memory_order_relaxed);
    set_bin(cache, slab);
  }
  return {slab, RefillSource::NewSuperslab};
}

// From the pool into the empty bin; false when it has none. No refill: what is
// in the pool counts as what is in bins.
bool take_pooled(ThreadCache* cache, uint32_t size_class, uint32_t limit) {
  Bin& bin = cache->bins[size_class];
  uint32_t count = heap.pool.take_blocks(size_class, bin.top, limit);
  std::atomic_signal_fence(std::memory_order_release);
  bin.top -= count;
  if (count == 0) return false;
  if (is_shared(size_class))
    heap.decay(cache->shard);  // a steady state may come to no other cold path
  else
    cache->counters.count<metrics::Metric::kRemoteFrees>(count);
  return true;
}

// A refill from a class that many threads share: the bin may hold more where the last one was not long ago, and less
// where it was. With what it misses in caches it costs some 0.3 to 0.5 us: one or two percent of kSoonTicks.
void adapt_to_rate(ClassState& state, const BinShape& shape) {
  constexpr uint64_t kSoonTicks = 1 << 16;  // some 25 us
  uint64_t now = ticks();
  if (state.refilled_at == 0)
    state.bin_limit = shape.shared;
  else if (now - state.refilled_at < kSoonTicks)
    state.bin_limit = std::min(2 * state.bin_limit, shape.capacity);
  else
    state.bin_limit = std::max<uint32_t>(state.bin_limit / 2, shape.shared);
  state.refilled_at = now;
  state.to_send_home = -kKeptFromHome;  // what another thread had is as good as the thread's own
}

// Puts at most `limit` blocks into the class's empty bin; count 0 when there is no memory.
Batch refill(ThreadCache* cache, uint32_t size_class, uint32_t limit) {
  ClassState& state = cache->classes[size_class];
  if (state.current != nullptr) [[likely]] {
    Batch batch = take_batch(cache, state.current, limit);
    if (batch.count > 0) {
      // Threads that free into each other's slabs in a steady state come to no other cold path.
      if (batch.source == RefillSource::RemoteFrees) heap.decay(cache->shard);
      if (is_shared(size_class)) let_go_of_current(cache, state);
      return batch;
    }
    Slab* exhausted = state.current;
    state.current = nullptr;
    // Of a slab of few blocks the next free comes soon, and would have to claim it.
    bool is_kept = kBinShapes[size_class].is_big && !has_other_threads();
    if (is_kept || !abandon(cache, exhausted)) place(cache, exhausted);
  }
  heap.decay(cache->shard);
  if (heap.is_drain_due()) drain_pool(cache, Drain::kIdle);
  NextSlab next = next_slab(cache, state, size_class);
  if (next.slab == nullptr) return {0, next.source};
  state.current = next.slab;
  bool shares = is_shared(size_class);
  // The thread may have passed on only what others allocate.
  if (!shares) state.bin_limit = std::max(state.bin_limit, std::min(kBinShapes[size_class].capacity, kLeastBinLimit));
  Batch batch = take_batch(cache, next.slab, limit);
  // A slab that all refill from is as good as the thread's own.
  if (!shares || next.source == RefillSource::NewSuperslab) batch.source = next.source;
  HAKMEM_ASSERT(batch.count > 0);
  if (shares) let_go_of_current(cache, state);  // whoever refills next takes from it, too
  return batch;
}

void count_refill(ThreadCache* cache, uint32_t size_class, Batch batch, size_t bytes) {
  metrics::Shard shard = cache->counters.shard();
  size_t by_source = size_t{size_class} * metrics::kCountOf<RefillSource> + static_cast<size_t>(batch.source);
  shard.add<metrics::Metric::kRefills>(by_source, 1);
  shard.add<metrics::Metric::kRefillObjects>(by_source, batch.count);
  shard.add<metrics::Metric::kRequestsObserved>(size_class, 1);
  shard.add<metrics::Metric::kRequestedBytesObserved>(size_class, bytes);
  HAKMEM_PROBE3(0, hakmem, refill, kClassShapes[size_class].block_bytes, batch.count, batch.source);
}

// The class's bin is empty.
[[gnu::noinline]] void* refill_and_allocate(ThreadCache* cache, uint32_t size_class, size_t bytes) {
  ClassState& state = cache->classes[size_class];
  state.is_used = true;
  state.was_refilled = true;
  look_for_idle(cache);
  bool shares = is_shared(size_class);
  if (shares) adapt_to_rate(state, kBinShapes[size_class]);
  uint32_t limit = std::max(state.bin_limit / 2, 1u);
  if (limit > kMaxRefillBlocks) limit = kMaxRefillBlocks;
  if constexpr (kBuild.stats) count_allocations(cache, size_class);
  Batch batch{0, RefillSource::OwnFrees};
  if (!take_pooled(cache, size_class, limit)) {
    // A larger bin would not be empty.
    if (!shares) state.bin_limit = std::min(2 * state.bin_limit, kBinShapes[size_class].capacity);
    state.has_overflowed = false;
    batch = refill(cache, size_class, limit);
    if (batch.count == 0) {
      offer_bin(cache, size_class);
      cache->counters.count<metrics::Metric::kOutOfMemory>();
      errno = ENOMEM;
      return nullptr;
    }
    if constexpr (kBuild.stats) count_refill(cache, size_class, batch, bytes);
  }
  if constexpr (has(Mitigation::kRandomReuse)) shuffle_bin(cache, size_class);
  if (kBuild.stats && state.countdown.until_sample < cache->blocks_in_bin(size_class)) [[unlikely]]
    put_samples(cache, size_class);
  offer_bin(cache, size_class);
  void* block = allocate_from(cache, size_class * kBinWords, bytes);
  if (batch.source == RefillSource::NewSuperslab) call_transition_hook(kClassShapes[size_class].units * kUnitBytes);
  return block;
}

// Puts the `count` blocks of a remote list into the free map of their slab. Whoever
// wrote to a block since its free has overwritten its key or its link, which is not
// followed then. Returns how many blocks came back: the others are leaked.
uint32_t take_apart(Slab* slab, Block* block, uint32_t count) {
  uint32_t taken = 0;
  for (uint32_t i = 1;; ++i) {
    Block* next = block->next();
    bool is_sound =
        i == count ? block->is_last() : next != nullptr && slab->is_block_start(reinterpret_cast<uintptr_t>(next));
    if constexpr (!has(Mitigation::kCheckedLists)) is_sound = true;
    if constexpr (has(Mitigation::kZeroOnFree)) block->link = 0;
    if (!is_sound || block->has_lost_key()) [[unlikely]]
      report_misuse(Message::kCorruptedFreeList, block);
    else if (!slab->try_put_free(block, slab->shape())) [[unlikely]]
      report_misuse(Message::kDoubleFree, block);
    else
      ++taken;
    if (i == count || !is_sound) return taken;
    block = next;
  }
}

}  // namespace

void collect_remote(ThreadCache* cache, Slab* slab) {
  uint64_t word = SlabWords<Slab>::collect(*slab);
  uint32_t count = RemoteList::count(word);
  if (count == 0) return;
  cache->counters.add<metrics::Metric::kCollectedObjects>(slab->size_class, count);
  cache->counters.count<metrics::Metric::kRemoteFrees>(count);
  slab->used -= take_apart(slab, reinterpret_cast<Block*>(slab->start + RemoteList::offset(word)), count);
}

void* allocate_again(size_t bytes) { return allocate(bytes); }

void* allocate_cold(size_t bytes) {
  uint32_t size_class = size_class_of(bytes);
  ThreadCache* cache = thread_state.cache;
  if (cache != &empty_cache) [[likely]] {
    if (kBuild.stats && cache->blocks_in_bin(size_class) != 0) [[unlikely]]
      return allocate_sample(cache, size_class, bytes);
    return metrics::slow_call(cache->counters, cache->shard, metrics::SlowCall::Malloc,
                              [=] { return refill_and_allocate(cache, size_class, bytes); });
  }
  cache = start_thread();
  if (cache != nullptr) return allocate_from(cache, size_class * kBinWords, bytes);
  if (void* block = allocate_private(bytes, kBlockAlignment); block != nullptr) return block;
  LateCacheScope late;
  return allocate_from(thread_state.cache, size_class * kBinWords, bytes);
}

}  // namespace hakmem
