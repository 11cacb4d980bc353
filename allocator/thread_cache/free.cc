// Frees that leave the hot path: by a thread that does not own the slab, of
// blocks that no thread cache holds, and frees that bring a slab to a threshold.
#include <utility>

#include "allocator/base/message.h"
#include "allocator/thread_cache/guard.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/large.h"
#include "allocator/thread_cache/lifetime.h"
#include "allocator/thread_cache/private_thread.h"

namespace hakmem {
namespace {

// Sleeping slabs looked at with each claim, in turn: so a thread that only frees
// keeps up with those that free into its slabs.
constexpr uint32_t kSleepersToTidy = 2;

// Address space of the sleeping slabs of a class that a thread keeps while
// there are other threads, who may free what is left in them.
constexpr size_t kKeptSleepingBytes = 8 * kMiB;

// Up to this size a thread that only passes on what others allocate keeps a slab that it claims until
// some of it is free: it takes its blocks back for less than the pool does.
constexpr size_t kKeptAsleepBytes = 1 * kKiB;

// How many available slabs of the class the thread keeps.
uint32_t kept_available(const ThreadCache* cache, uint32_t size_class) {
  if (is_late(cache) || is_shared(size_class)) return 0;
  if (!has_other_threads()) return UINT32_MAX;
  const ClassState& state = cache->classes[size_class];
  return state.allocates() ? state.kept_slabs.limit(size_class) : 0;
}

// Whether the thread keeps a slab of the class with too few free blocks to refill from. One that only
// passes on what others allocate may idle for long, while others free what is left in it.
bool keeps_sleeping(const ThreadCache* cache, uint32_t size_class) {
  if (is_late(cache) || is_shared(size_class)) return false;
  if (!has_other_threads() || cache->classes[size_class].allocates()) return true;
  return kClassShapes[size_class].block_bytes <= kKeptAsleepBytes;
}

// Takes an owned slab out of the list that place() put it into, and settles it.
void displace(ThreadCache* cache, Slab* slab) {
  ClassState& state = cache->classes[slab->size_class];
  if (slab->state == SlabState::Available) {
    state.available.remove(slab);
    --state.available_count;
  } else {
    state.sleeping.remove(slab);
    --state.sleeping_count;
  }
  settle_and_count(cache, slab);
  collect_remote(cache, slab);
  HAKMEM_ASSERT(slab->is_consistent());
}

// The thread turns away from a slab of the class that has free blocks.
void count_let_go(ClassState& state) {
  if (state.taken > 0) --state.taken;
}

void let_go_empty(ThreadCache* cache, Slab* slab) {
  count_let_go(cache->classes[slab->size_class]);
  retire(cache, slab);
}

// Leaves a settled, part-full slab in no list to whoever refills from the class next. False when it was empty by then.
bool give_to_pool(ThreadCache* cache, Slab* slab) {
  slab->set_countdown(kNoThreshold);
  count_let_go(cache->classes[slab->size_class]);
  bool is_given = heap.pool.give(slab, is_shared(slab->size_class));
  slab->superslab->mark_changed();
  if (is_given) return true;
  // The last of its blocks came back in between.
  collect_remote(cache, slab);
  retire(cache, slab);
  return false;
}

// Leaves the slab that has been available longest to others, if there are more than the thread
// keeps: into the newest frees still come.
void trim_available(ThreadCache* cache, uint32_t size_class) {
  ClassState& state = cache->classes[size_class];
  if (state.available_count <= kept_available(cache, size_class)) return;
  if (let_go_of_available(cache, state)) state.kept_slabs.given();
}

// May read a list that others change meanwhile: a link is followed only
// within the superslab.
__attribute__((no_sanitize("thread"))) bool is_on_list(const Block* block, Block* list, uint32_t bound) {
  for (uint32_t i = 0; list != nullptr && i < bound; ++i) {
    if (list == block) return true;
    uint64_t distance = list->distance();
    if (!Block::is_valid(distance)) return false;
    list = list->at(distance);
  }
  return false;
}

// Whether a thread has the block in its bin, or the pool has it.
__attribute__((no_sanitize("thread"))) bool is_in_a_bin(const Block* block, uint32_t size_class) {
  if (heap.pool.has_block(size_class, block)) return true;
  for (const ThreadCache* cache = first_registered_cache(); cache != nullptr; cache = cache->next_registered) {
    Block* const* bottom = cache->bottom(size_class);
    for (Block* const* slot = cache->bins[size_class].top; slot < bottom; ++slot)
      if (*slot == block) return true;
  }
  return false;
}

// Whether a block that looks free is free, as of some moment.
HAKMEM_COLD __attribute__((no_sanitize("thread"))) bool is_free(Slab* slab, const Block* block) {
  uint64_t remote = slab->remote.load(std::memory_order_acquire);
  Block* remote_first = remote == 0 ? nullptr : reinterpret_cast<Block*>(slab->start + RemoteList::offset(remote));
  SuperslabHeap<SystemMemory>::ReaderScope reader(heap.superslabs);
  return slab->has_free(block) || is_on_list(block, remote_first, slab->shape().capacity) ||
         is_in_a_bin(block, slab->size_class);
}

// For a block that looks free: false when it is live, and looks so no more.
HAKMEM_COLD bool is_reported(Slab* slab, Block* block) {
  Message misuse = misuse_at_key(slab, block);
  if (misuse == Message::kCount) {
    block->clear_key();
    return false;
  }
  report_misuse(misuse, block);
  return true;
}

bool try_claim(ThreadCache* cache, Slab* slab) {
  if (!SlabWords<Slab>::claim(*slab, cache->tag())) return false;
  set_bin(cache, slab);
  cache->counters.count<metrics::Metric::kSlabClaims>();
  collect_remote(cache, slab);
  return true;
}

// The first block that comes back to a slab that this thread has just claimed.
void take_back_claimed(ThreadCache* cache, Slab* slab, Block* block) {
  uint32_t size_class = slab->size_class;
  if (!slab->try_put_free(block, slab->shape()))
    report_misuse(Message::kDoubleFree, block);
  else
    --slab->used;
  cache->counters.add<metrics::Metric::kCollectedObjects>(size_class, 1);
  place(cache, slab);
  tidy_class(cache, size_class);
  heap.decay(cache->shard);
}

// Whether the remote list may hold all that was handed out: a guess that the
// pool confirms under its lock, as the slab may have a new owner by now.
__attribute__((no_sanitize("thread"))) bool may_be_empty(const Slab* slab, uint64_t remote) {
  return RemoteList::count(remote) == slab->used;
}

void push_remote(ThreadCache* cache, Slab* slab, Block* block) {
  uint32_t offset = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(block) - slab->start);
  uint64_t pushed = SlabWords<Slab>::push(*slab, offset, [&](uint64_t old) {
    block->set_next(old == 0 ? nullptr : reinterpret_cast<Block*>(slab->start + RemoteList::offset(old)));
  });
  slab->superslab->mark_changed();  // whatever it is by now
  // From here on the slab may have been emptied, retired and used anew by
  // others. What follows is right for any slab in that state.
  uintptr_t now = SlabWords<Slab>::owner_after_push(*slab);
  if (now == owner::kUnowned && try_claim(cache, slab)) return place(cache, slab);
  // `used` does not change while a slab is pooled; the pool looks again under its lock.
  if (now == owner::kPooled && may_be_empty(slab, pushed) && heap.pool.take_if_empty(slab)) {
    cache->counters.add<metrics::Metric::kCollectedObjects>(slab->size_class, slab->used);
    cache->counters.count<metrics::Metric::kRemoteFrees>(slab->used);
    slab->used = 0;
    slab->remote.store(0, std::memory_order_relaxed);
    retire(cache, slab);
  }
}

// Whether a block of another thread's slab goes home, and is counted among those that do. A
// block that stays in the bin comes back again and again, and blocks of two threads stay
// neighbours that share cache lines: worth it where few are foreign once they went home. Where
// threads go on to pass their blocks to each other it is not, so it is tried from time to time.
bool is_sent_home(ClassState& state) {
  if (state.to_send_home < 0) {
    if (++state.to_send_home == 0) state.to_send_home = kSentHome;
    return false;
  }
  if (--state.to_send_home == 0) state.to_send_home = -kKeptFromHome;
  return true;
}

// Takes a free of a block of a slab that another thread owns, or the pool. A thread that does
// not allocate from the class keeps it, to pass it on by the batch.
HAKMEM_INLINE void free_to_other(ThreadCache* cache, Slab* slab, Block* block) {
  cache->exact.count_free(slab->size_class);
  ClassState& state = cache->classes[slab->size_class];
  if (!state.allocates() || !is_sent_home(state)) return put_into_bin(cache, slab, block);
  block->mark_free();
  push_remote(cache, slab, block);
}

void free_into_class(ThreadCache* cache, Slab* slab, void* address, uintptr_t owner_word) {
  auto* block = static_cast<Block*>(address);
  if (!slab->is_block_start(reinterpret_cast<uintptr_t>(address))) return free_inside(block);
  if (owner_word == cache->tag()) return free_owned(cache, slab, block);
  if (block->looks_free() && is_reported(slab, block)) [[unlikely]]
    return;
  if (owner_word == owner::kSampled) {
    cache->exact.count_free(slab->size_class);
    return free_sample(slab, block, cache->shard);
  }
  // Who frees into a slab that nobody owns will do so again.
  if (owner_word != owner::kUnowned || is_late(cache) || is_shared(slab->size_class) || !try_claim(cache, slab))
    return free_to_other(cache, slab, block);
  if (!keeps_sleeping(cache, slab->size_class)) {
    // The slab goes to the pool, where each has a free block.
    cache->exact.count_free(slab->size_class);
    block->mark_free();
    return take_back_claimed(cache, slab, block);
  }
  place(cache, slab);
  tidy_class(cache, slab->size_class);
  heap.decay(cache->shard);
  cache->exact.count_free(slab->size_class);
  put_into_bin(cache, slab, block);
}

void free_with(ThreadCache* cache, void* address) {
  Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(address));
  if (slab == nullptr && is_guarded(address)) return free_guarded(address);
  if (slab == nullptr && is_private(address)) return free_private(address);
  if (slab == nullptr) return free_huge(address, cache->shard);
  uintptr_t owner_word = slab->owner.load(std::memory_order_acquire);
  if (owner_word == owner::kLarge) return free_large(slab, address, cache->shard);
  // No slab there now; but a huge mapping may stand where a superslab was unmapped.
  if (owner_word == owner::kFree) return free_huge(address, cache->shard);
  free_into_class(cache, slab, address, owner_word);
}

// A live block that begins in a unit after its slab's first, or a sample; else free_cold().
[[gnu::noinline]] void free_elsewhere(ThreadCache* cache, Block* block, Slab* slab) {
  if (slab->owner.load(std::memory_order_relaxed) == owner::kInterior) slab = slab->head();
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  bool is_sample = kBuild.stats && owner_word == owner::kSampled;
  bool is_left_to_all = owner_word == owner::kUnowned && is_shared(slab->size_class);
  if ((owner_word < owner::kPooled && !is_sample && !is_left_to_all) || cache == &empty_cache ||
      !slab->is_block_start(reinterpret_cast<uintptr_t>(block)) || block->looks_free()) [[unlikely]]
    return free_cold(block);
  if (owner_word == cache->tag()) return free_owned(cache, slab, block);
  if (!is_sample) return free_to_other(cache, slab, block);
  cache->exact.count_free(slab->size_class);
  free_sample(slab, block, cache->shard);
}

}  // namespace

void give_back(ThreadCache* cache, Slab* slab, Block* block, uintptr_t owner_word) {
  if (owner_word == owner::kUnowned && try_claim(cache, slab)) return take_back_claimed(cache, slab, block);
  push_remote(cache, slab, block);
}

void place(ThreadCache* cache, Slab* slab) {
  ClassState& state = cache->classes[slab->size_class];
  if (slab->used == 0) return let_go_empty(cache, slab);
  uint32_t threshold = slab->shape().wake_threshold;
  // A slab without a free block is no use to others.
  bool is_full = slab->listed() == 0 && !is_late(cache);
  if (is_full || (slab->listed() < threshold && keeps_sleeping(cache, slab->size_class))) {
    slab->state = SlabState::Sleeping;
    uint32_t missing = threshold - slab->listed();
    slab->set_countdown(missing < slab->used ? missing : slab->used);
    state.sleeping.push_front(slab);
    ++state.sleeping_count;
    slab->superslab->mark_changed();
  } else {
    slab->state = SlabState::Available;
    slab->set_countdown(slab->used);
    state.available.push_front(slab);
    ++state.available_count;
    slab->superslab->mark_changed();
    trim_available(cache, slab->size_class);
  }
}

bool let_go_of_available(ThreadCache* cache, ClassState& state) {
  Slab* slab = state.available.last();
  displace(cache, slab);
  if (slab->used != 0) return give_to_pool(cache, slab);
  let_go_empty(cache, slab);
  return false;
}

uint32_t tidy_class(ThreadCache* cache, uint32_t size_class) {
  ClassState& state = cache->classes[size_class];
  uint32_t collected = 0;
  size_t kept = kKeptSleepingBytes / (kClassShapes[size_class].units * kUnitBytes);
  for (uint32_t i = 0; i < kSleepersToTidy && state.sleeping_count > 1; ++i) {
    Slab* slab = state.sleeping.last();
    bool is_surplus = state.sleeping_count > kept && has_other_threads();
    collected -= slab->listed();
    displace(cache, slab);
    collected += slab->listed();
    bool is_asleep = slab->used != 0 && slab->listed() < slab->shape().wake_threshold;
    if (is_surplus && is_asleep && abandon(cache, slab)) continue;
    place(cache, slab);
  }
  trim_available(cache, size_class);
  return collected;
}

bool abandon(ThreadCache* cache, Slab* slab) {
  slab->set_countdown(kNoThreshold);
  slab->state = SlabState::Unowned;
  // From here on it may be claimed, emptied, used anew for another class and
  // abandoned there: what is claimed back is taken for whatever it is by then.
  bool is_disowned = SlabWords<Slab>::disown(*slab);
  slab->superslab->mark_changed();
  return is_disowned || !try_claim(cache, slab);
}

// The shortest way for a live block of a slab of another thread, or of the pool.
void free_foreign(void* address, Slab* slab) {
  ThreadCache* cache = thread_state.cache;
  auto* block = static_cast<Block*>(address);
  // The owner may change meanwhile; that the block is live keeps the slab what it is.
  if (slab->owner.load(std::memory_order_relaxed) < owner::kPooled || cache == &empty_cache ||
      !slab->is_block_start(reinterpret_cast<uintptr_t>(address)) || block->looks_free()) [[unlikely]]
    return free_elsewhere(cache, block, slab);
  free_to_other(cache, slab, block);
}

void free_cold(void* address) {
  if (address == nullptr) return;
  ThreadCache* cache = current_cache();
  if (cache == nullptr) {
    if (is_private(address)) return free_private(address);
    LateCacheScope late;
    return free_with(thread_state.cache, address);
  }
  metrics::slow_call(cache->counters, cache->shard, metrics::SlowCall::Free, [=] { free_with(cache, address); });
}

void free_suspect(Block* block, Slab* slab) noexcept {
  if (!is_reported(slab, block)) free_owned(thread_state.cache, slab, block);  // which owns the slab
}

void free_inside(Block* block) { report_misuse(Message::kInvalidPointer, block); }

Message misuse_at_key(Slab* slab, const Block* block) {
  auto address = reinterpret_cast<uintptr_t>(block);
  if (slab->is_block_start(address)) return is_free(slab, block) ? Message::kDoubleFree : Message::kCount;
  // The key was left there by the free of a block of an earlier slab. Nobody had it since
  // where this one has handed out nothing yet; else it stands in the middle of a block.
  size_t carved_bytes =
      size_t{std::atomic_ref(slab->carved).load(std::memory_order_relaxed)} * slab->shape().block_bytes;
  return address - slab->start >= carved_bytes ? Message::kDoubleFree : Message::kInvalidPointer;
}

void settle_slab(ThreadCache* cache, Slab* slab) {
  if (slab->state == SlabState::Current) {
    cache->classes[slab->size_class].current = nullptr;
    settle_and_count(cache, slab);
    return place(cache, slab);
  }
  displace(cache, slab);
  place(cache, slab);
}

void retire(ThreadCache* cache, Slab* slab) {
  cache->counters.count<metrics::Metric::kSlabRetirements>();
  uint32_t shard = cache->shard;
  heap.superslabs.give_span(slab, shard);
  heap.decay(shard);
}

void let_go(ThreadCache* cache, Slab* slab) {
  collect_remote(cache, slab);
  if (slab->used == 0) return retire(cache, slab);
  if (!slab->is_exhausted())
    give_to_pool(cache, slab);
  else if (!abandon(cache, slab))
    let_go(cache, slab);
}

void let_go_of_current(ThreadCache* cache, ClassState& state) {
  Slab* slab = std::exchange(state.current, nullptr);
  settle_and_count(cache, slab);
  let_go(cache, slab);
}

}  // namespace hakmem
