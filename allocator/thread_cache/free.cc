// Frees that leave the hot path: by a thread that does not own the slab, of
// blocks that no thread cache holds, and frees that bring a slab to a threshold.
#include "allocator/base/message.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/large.h"
#include "allocator/thread_cache/sampling.h"

namespace hakmem {
namespace {

// Sleeping slabs looked at for remote frees at each claim, so that a thread
// that only frees keeps up with those that free into its slabs.
constexpr uint32_t kSleepersToTidy = 2;

// Available slabs of a class that a thread keeps for itself while it does not
// refill from them; what comes beyond is left to others. A thread that never
// allocated from the class keeps none.
constexpr uint32_t kKeptAvailable = 8;

bool is_wanted_here(const ClassState& state) {
  return state.current != nullptr && state.available_count < kKeptAvailable;
}

// After collecting: brings an owned slab in no list to where it belongs. The
// caller may not own it any more afterwards.
void place(ThreadCache* cache, Slab* slab) {
  ClassState& state = cache->classes[slab->size_class];
  if (slab->used == 0) return retire(cache, slab);
  uint32_t threshold = slab->shape().wake_threshold;
  if (slab->listed() < threshold) {
    slab->state = SlabState::Sleeping;
    uint32_t missing = threshold - slab->listed();
    slab->set_countdown(missing < slab->used ? missing : slab->used);
    state.sleeping.push_front(slab);
  } else if (is_wanted_here(state) || !has_other_threads()) {
    slab->state = SlabState::Available;
    slab->set_countdown(slab->used);
    state.available.push_front(slab);
    ++state.available_count;
  } else {
    slab->set_countdown(kNoThreshold);
    heap.pool.give(slab);
  }
}

// Takes an owned slab out of the list that place() put it into.
void displace(ThreadCache* cache, Slab* slab) {
  ClassState& state = cache->classes[slab->size_class];
  if (slab->state == SlabState::Available) {
    state.available.remove(slab);
    --state.available_count;
  } else {
    state.sleeping.remove(slab);
  }
  settle_and_count(cache, slab);
  collect_remote(cache, slab);
  HAKMEM_ASSERT(slab->is_consistent());
}

void tidy_sleepers(ThreadCache* cache, uint32_t size_class) {
  Slab* slab = cache->classes[size_class].sleeping.first();
  for (uint32_t i = 0; slab != nullptr && i < kSleepersToTidy; ++i) {
    Slab* next = slab->next;
    if (slab->remote.load(std::memory_order_relaxed) != 0) {
      displace(cache, slab);
      place(cache, slab);
    }
    slab = next;
  }
}

// May read lists that their owner changes meanwhile: a link is followed only
// within the superslab.
__attribute__((no_sanitize("thread"))) bool is_on_list(Block* block, Block* list, uint32_t bound) {
  for (uint32_t i = 0; list != nullptr && list != &empty_block && i < bound; ++i) {
    if (list == block) return true;
    uint64_t distance = list->distance();
    if (!Block::is_valid(distance)) return false;
    list = list->at(distance);
  }
  return false;
}

// The key matches: the block is free, or the program wrote just these 64 bits
// itself. Only the lists can tell.
__attribute__((no_sanitize("thread"))) HAKMEM_COLD void confirm_is_live(ThreadCache* cache, Slab* slab, Block* block) {
  uint32_t capacity = slab->shape().capacity;
  uint64_t remote = slab->remote.load(std::memory_order_acquire);
  Block* remote_first = remote == 0 ? nullptr : reinterpret_cast<Block*>(slab->start + RemoteList::offset(remote));
  if (is_on_list(block, slab->free, capacity) || is_on_list(block, remote_first, capacity) ||
      is_on_list(block, cache->lists[slab->size_class], capacity))
    fail(Message::kDoubleFree, reinterpret_cast<uintptr_t>(block));
  block->clear_key();
}

bool try_claim(ThreadCache* cache, Slab* slab) {
  uintptr_t expected = owner::kUnowned;
  // Acquire pairs with the store in abandon(): the owner's fields are ours now.
  if (!slab->owner.compare_exchange_strong(expected, cache->tag(), std::memory_order_acquire)) return false;
  metrics::count<metrics::Metric::kSlabClaims>(cache->shard);
  collect_remote(cache, slab);
  return true;
}

// The first free into a slab that this thread has just claimed.
void free_claimed(ThreadCache* cache, Slab* slab, Block* block) {
  uint32_t size_class = slab->size_class;
  block->mark_free();
  block->set_next(slab->free);
  slab->free = block;
  --slab->used;
  cache->exact.count_free(size_class);
  metrics::count<metrics::Metric::kCollectedObjects>(cache->shard, size_class, uint64_t{1});
  place(cache, slab);
  tidy_sleepers(cache, size_class);
}

void push_remote(ThreadCache* cache, Slab* slab, Block* block) {
  block->mark_free();
  uint32_t offset = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(block) - slab->start);
  uint64_t old = slab->remote.load(std::memory_order_relaxed);
  uint64_t pushed;
  do {
    block->set_next(old == 0 ? nullptr : reinterpret_cast<Block*>(slab->start + RemoteList::offset(old)));
    pushed = RemoteList::pack(offset, RemoteList::count(old) + 1);
    // Release pairs with take_remote(); sequentially consistent with abandon().
  } while (!slab->remote.compare_exchange_weak(old, pushed, std::memory_order_seq_cst, std::memory_order_relaxed));

  // From here on the slab may have been emptied, retired and used anew by
  // others. What follows is right for any slab in that state.
  uintptr_t now = slab->owner.load(std::memory_order_seq_cst);
  if (now == owner::kUnowned && try_claim(cache, slab)) return place(cache, slab);
  if (now == owner::kPooled && heap.pool.take_if_empty(slab)) {
    metrics::count<metrics::Metric::kCollectedObjects>(cache->shard, slab->size_class, uint64_t{slab->used});
    metrics::count<metrics::Metric::kRemoteFrees>(cache->shard, uint64_t{slab->used});
    slab->used = 0;
    slab->remote.store(0, std::memory_order_relaxed);
    retire(cache, slab);
  }
}

void free_into_class(ThreadCache* cache, Slab* slab, void* address, uintptr_t owner_word) {
  auto* block = static_cast<Block*>(address);
  if (!slab->is_block_start(reinterpret_cast<uintptr_t>(address)))
    fail(Message::kInvalidPointer, reinterpret_cast<uintptr_t>(address));
  if (owner_word == cache->tag()) return free_owned(cache, slab, block);
  if (block->looks_free()) [[unlikely]]
    confirm_is_live(cache, slab, block);
  if (owner_word == owner::kSampled) {
    cache->exact.count_free(slab->size_class);
    return free_sample(slab, block, cache->shard);
  }
  if (owner_word == owner::kUnowned && try_claim(cache, slab)) return free_claimed(cache, slab, block);
  cache->exact.count_free(slab->size_class);
  push_remote(cache, slab, block);
}

void free_with(ThreadCache* cache, void* address) {
  Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(address));
  if (slab == nullptr) return free_huge(address, cache->shard, Message::kForeignPointer);
  uintptr_t owner_word = slab->owner.load(std::memory_order_acquire);
  if (owner_word == owner::kLarge) return free_large(slab, address, cache->shard);
  // No slab there now; but a huge mapping may stand where a superslab was unmapped.
  if (owner_word == owner::kFree) return free_huge(address, cache->shard, Message::kInvalidPointer);
  free_into_class(cache, slab, address, owner_word);
}

}  // namespace

void free_cold(void* address) {
  if (address == nullptr) return;
  ThreadCache* cache = current_cache();
  if (cache == nullptr) {
    LateCacheScope late;
    return free_with(thread_state.cache, address);
  }
  free_with(cache, address);
}

void free_suspect(Block* block, Slab* slab) {
  ThreadCache* cache = thread_state.cache;  // owns the slab
  confirm_is_live(cache, slab, block);
  free_owned(cache, slab, block);
}

// The countdown of an owned slab that is available or sleeping has run out.
void settle_slab(Slab* slab) {
  ThreadCache* cache = thread_state.cache;
  if (slab->state == SlabState::Current) {
    settle_and_count(cache, slab);
    return slab->set_countdown(kNoThreshold);
  }
  displace(cache, slab);
  place(cache, slab);
}

void retire(ThreadCache* cache, Slab* slab) {
  metrics::count<metrics::Metric::kSlabRetirements>(cache->shard);
  uint32_t shard = cache->shard;
  heap.superslabs.give_span(slab, shard);
  heap.superslabs.decay(shard);
}

void let_go(ThreadCache* cache, Slab* slab) {
  collect_remote(cache, slab);
  if (slab->used == 0) return retire(cache, slab);
  slab->set_countdown(kNoThreshold);
  if (!slab->is_exhausted()) return heap.pool.give(slab);
  if (!abandon(cache, slab)) let_go(cache, slab);
}

}  // namespace hakmem
