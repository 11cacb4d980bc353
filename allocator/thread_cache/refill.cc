// Refill: where a class's list gets its blocks from, in the order of cost.
//
//   1. what the owner freed into the current slab: its list, whole
//   2. what others freed into it: its remote list, whole
//   3. blocks of it that were never used: carved no further than handed out
//   4. another slab: available, woken by remote frees, or from the shared pool
//   5. superslab_refill: a new slab
#include <errno.h>

#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/sampling.h"

namespace hakmem {
namespace {

using metrics::RefillSource;

// Blocks on their way to a thread cache, linked.
struct Batch {
  Block* first;
  uint32_t count;
  RefillSource source;
};

// Sleeping slabs looked at for remote frees before fresh memory is taken.
constexpr uint32_t kSleepersToCheck = 4;

Batch carve(ThreadCache* cache, Slab* slab, uint32_t limit) {
  const ClassShape& shape = slab->shape();
  slab->carve_time.start();
  uint32_t count = shape.capacity - slab->carved;
  if (count > shape.refill_objects) count = shape.refill_objects;
  if (count > limit) count = limit;
  uintptr_t address = slab->start + size_t{slab->carved} * shape.block_bytes;
  auto* first = reinterpret_cast<Block*>(address);
  Block* block = first;
  for (uint32_t i = 1; i < count; ++i) {
    address += shape.block_bytes;
    auto* next = reinterpret_cast<Block*>(address);
    block->set_next(next);
    block->mark_free();
    block = next;
  }
  block->set_next(nullptr);
  block->mark_free();
  // Before the list is published: in a child forked in between, blocks may be
  // lost but are never handed out twice.
  std::atomic_ref(slab->carved).store(slab->carved + count, std::memory_order_relaxed);
  slab->used += count;
  std::atomic_signal_fence(std::memory_order_release);
  slab->carve_time.stop();
  if (slab->carved == shape.capacity) slab->carve_time.observe(cache->shard);
  return {first, count, RefillSource::FreshCarve};
}

// Cuts a batch after `limit` blocks; the rest goes back to the slab's own list,
// which is empty: what it had is in the batch, or stayed out of it.
void cut(Slab* slab, Batch& batch, uint32_t limit) {
  HAKMEM_ASSERT(slab->free == nullptr);
  Block* last = batch.first;
  for (uint32_t i = 1; i < limit; ++i) last = last->next();
  slab->free = last->next();
  last->set_next(nullptr);
  slab->used -= batch.count - limit;
  batch.count = limit;
}

// At most `limit` blocks of an owned slab; count 0 when it is exhausted.
Batch take_batch(ThreadCache* cache, Slab* slab, uint32_t limit) {
  settle_and_count(cache, slab);
  Batch batch{nullptr, 0, RefillSource::OwnFrees};
  if (slab->free != nullptr) {
    batch.first = slab->free;
    batch.count = slab->listed();
    slab->free = nullptr;
    slab->used += batch.count;
  } else if (slab->remote.load(std::memory_order_relaxed) != 0) {
    batch.first = take_remote(cache, slab, batch.count);
    batch.source = RefillSource::RemoteFrees;
  } else if (slab->carved < slab->shape().capacity) {
    batch = carve(cache, slab, limit);
  }
  if (batch.count > limit) [[unlikely]]
    cut(slab, batch, limit);
  slab->set_countdown(kNoThreshold);
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
  if (slab == nullptr) {
    slab = heap.pool.take(size_class, cache->tag());
    if (slab != nullptr) metrics::count<metrics::Metric::kSlabAdoptions>(cache->shard);
  }
  if (slab != nullptr) {
    slab->state = SlabState::Current;
    return {slab, RefillSource::OtherSlab};
  }
  adopt_orphans(cache);
  slab = heap.take_span(kClassShapes[size_class].units, SlabState::Current, size_class, cache->shard);
  // Relaxed: no other thread knows a block of this slab yet.
  if (slab != nullptr) slab->owner.store(cache->tag(), std::memory_order_relaxed);
  return {slab, RefillSource::NewSuperslab};
}

// At most `limit` blocks for a class; count 0 when there is no memory.
Batch refill(ThreadCache* cache, uint32_t size_class, uint32_t limit) {
  ClassState& state = cache->classes[size_class];
  if (state.current != nullptr) [[likely]] {
    Batch batch = take_batch(cache, state.current, limit);
    if (batch.count > 0) return batch;
    Slab* exhausted = state.current;
    state.current = nullptr;
    if (!abandon(cache, exhausted)) place(cache, exhausted);
  }
  cache->counters.follow_sink(cache->shard);
  heap.decay(cache->shard);
  NextSlab next = next_slab(cache, state, size_class);
  if (next.slab == nullptr) return {nullptr, 0, next.source};
  state.current = next.slab;
  Batch batch = take_batch(cache, next.slab, limit);
  batch.source = next.source;
  HAKMEM_ASSERT(batch.count > 0);
  return batch;
}

[[gnu::noinline]] void* refill_and_allocate(ThreadCache* cache, uint32_t size_class, size_t bytes) {
  ClassState& state = cache->classes[size_class];
  uint32_t limit = UINT32_MAX;
  if constexpr (kBuild.stats) {
    if (state.until_sample == 0) [[unlikely]] {
      if (void* sample = sample_if_due(cache, size_class, bytes); sample != nullptr) return sample;
    }
    limit = state.until_sample;
  }
  Batch batch = refill(cache, size_class, limit);
  if (batch.count == 0) {
    metrics::count<metrics::Metric::kOutOfMemory>(cache->shard);
    errno = ENOMEM;
    return nullptr;
  }
  if constexpr (kBuild.stats) {
    state.until_sample -= batch.count;
    metrics::Slot* slots = cache->counters.slots();
    size_t by_source =
        size_t{size_class} * metrics::kCountOf<metrics::RefillSource> + static_cast<size_t>(batch.source);
    metrics::add<metrics::Metric::kRefills>(slots, by_source, 1);
    metrics::add<metrics::Metric::kRefillObjects>(slots, by_source, batch.count);
    metrics::add<metrics::Metric::kRequestsObserved>(slots, size_class, 1);
    metrics::add<metrics::Metric::kRequestedBytesObserved>(slots, size_class, bytes);
  }
  state.listed_bound = batch.count;
  Block* block = batch.first;
  Block* rest = block->next();
  cache->lists[size_class] = rest != nullptr ? rest : const_cast<Block*>(&empty_block);
  block->clear_key();
  cache->exact.count_allocation(size_class);
  if (batch.source == RefillSource::NewSuperslab) call_transition_hook();
  return block;
}

}  // namespace

Block* take_remote(ThreadCache* cache, Slab* slab, uint32_t& count) {
  // Acquire pairs with the release of each push: the links are readable.
  uint64_t word = slab->remote.exchange(0, std::memory_order_acquire);
  count = RemoteList::count(word);
  if (count == 0) return nullptr;
  metrics::count<metrics::Metric::kCollectedObjects>(cache->shard, slab->size_class, uint64_t{count});
  metrics::count<metrics::Metric::kRemoteFrees>(cache->shard, uint64_t{count});
  return reinterpret_cast<Block*>(slab->start + RemoteList::offset(word));
}

void collect_remote(ThreadCache* cache, Slab* slab) {
  if (slab->remote.load(std::memory_order_relaxed) == 0) return;
  uint32_t count = 0;
  Block* first = take_remote(cache, slab, count);
  if (count == 0) return;
  if (slab->free != nullptr) {
    Block* last = first;
    while (Block* next = last->next()) last = next;
    last->set_next(slab->free);
  }
  slab->free = first;
  slab->used -= count;
}

void* allocate_cold(size_t bytes) {
  uint32_t size_class = size_class_of(bytes);
  ThreadCache* cache = thread_state.cache;
  Block* block = cache->lists[size_class];
  if (block != &empty_block) [[likely]] {
    if (!block->is_last()) block->corrupted();
    cache->lists[size_class] = const_cast<Block*>(&empty_block);
    block->clear_key();
    cache->exact.count_allocation(size_class);
    return block;
  }
  if (cache != &empty_cache) [[likely]]
    return refill_and_allocate(cache, size_class, bytes);
  cache = start_thread();
  if (cache != nullptr) return allocate_class(cache, size_class, bytes);
  LateCacheScope late;
  return allocate_class(thread_state.cache, size_class, bytes);
}

}  // namespace hakmem
