// The cold side of bins: what happens when the frees that were counted out have
// come, and the way of blocks back to their slabs.
#include <string.h>

#include <algorithm>
#include <utility>

#include "allocator/thread_cache/internal.h"

namespace hakmem {
namespace {

// The slab of the block, if it is of the class and of this thread's; else null.
HAKMEM_INLINE Slab* own_slab_of(const ThreadCache* cache, uint32_t size_class, Block* block) {
  Slab* slab = slab_of(block);
  bool is_own = slab->owner.load(std::memory_order_relaxed) == cache->tag() && slab->size_class == size_class;
  return is_own ? slab : nullptr;
}

bool is_block_of(Slab* slab, uint32_t size_class, const Block* block) {
  return slab->size_class == size_class && slab->is_block_start(reinterpret_cast<uintptr_t>(block));
}

// Counts what the bins of big classes hold; `size_class` has just changed.
void count_big_bytes(ThreadCache* cache, uint32_t size_class) {
  ClassState& state = cache->classes[size_class];
  uint32_t blocks = cache->blocks_in_bin(size_class);
  cache->big_bytes += (size_t{blocks} - state.big_blocks) * kClassShapes[size_class].block_bytes;
  state.big_blocks = blocks;
}

// Whether the thread may keep one more block of a big class.
bool has_room_for_big(ThreadCache* cache, uint32_t size_class) {
  if (cache->blocks_in_bin(size_class) == cache->classes[size_class].bin_limit) return false;
  size_t bytes = kClassShapes[size_class].block_bytes;
  count_big_bytes(cache, size_class);
  if (cache->big_bytes + bytes <= cache->most_big_bytes) return true;
  // Allocations took from the others meanwhile.
  for (uint32_t i = kSizeClassCount; kBinShapes[--i].is_big;) count_big_bytes(cache, i);
  return cache->big_bytes + bytes <= cache->most_big_bytes;
}

// `count` blocks have been taken out of a bin: how many are left without samples.
uint32_t remove_samples_from(Block** blocks, uint32_t count, ClassState& state) {
  if constexpr (kBuild.stats) {
    state.countdown.until_sample -= count;
    if (state.countdown.samples != 0) [[unlikely]]
      return remove_samples(state.countdown, blocks, count);
  }
  return count;
}

// Takes the newest blocks out of a bin, all but `kept`: they stand where its top was. Returns how many they are
// without samples.
inline uint32_t take_newest(ThreadCache* cache, uint32_t size_class, uint32_t kept) {
  Bin& bin = cache->bins[size_class];
  Block** newest = bin.top;
  uint32_t count = cache->blocks_in_bin(size_class) - kept;
  // In a child forked in between, blocks may be lost but never stand in two places.
  bin.top += count;
  std::atomic_signal_fence(std::memory_order_release);
  return remove_samples_from(newest, count, cache->classes[size_class]);
}

// A block that is none of a slab of this thread's, or came back before.
[[gnu::noinline]] void return_elsewhere(ThreadCache* cache, uint32_t size_class, Block* block) {
  Slab* slab = slab_of(block);
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  if (!is_block_of(slab, size_class, block)) return free_inside(block);
  if (owner_word == cache->tag()) return report_misuse(Message::kDoubleFree, block);
  // The thread may have turned away from the slab since, and another claimed it.
  give_back(cache, slab, block, owner_word);
}

// Whether most of the blocks seem to stand next to the one before, as where a burst of allocations
// is freed in its order or against it. A look at some; for few blocks it is not worth it.
bool stand_in_rows(Block* const* blocks, uint32_t count, uintptr_t block_bytes) {
  constexpr uint32_t kLooks = 4;
  if (count < 8 * kLooks) return false;
  for (uint32_t i = 0; i < kLooks; ++i, blocks += count / kLooks) {
    uintptr_t step = reinterpret_cast<uintptr_t>(blocks[1]) - reinterpret_cast<uintptr_t>(blocks[0]);
    if (step != block_bytes && step != -block_bytes) return false;
  }
  return true;
}

// Puts the first of the blocks back into their slab: one or more, none when the first may not come back.
HAKMEM_INLINE uint32_t put_run(Slab* slab, Block* const* blocks, uint32_t limit, const ClassShape& shape) {
  // Freed in no order, blocks that stand in one slab seldom come one after the other.
  if (limit == 1 || unit_of(blocks[0]) != unit_of(blocks[1])) return slab->try_put_free(*blocks, shape);
  return slab->put_free_run(blocks, limit, shape);
}
HAKMEM_INLINE uint32_t put_rows(Slab* slab, Block* const* blocks, uint32_t limit, const ClassShape&) {
  return slab->put_free_rows(blocks, limit);
}

// Telemetry has looked again since a batch was begun, twice perhaps: then it may have taken superslabs for
// unchanged that were marked with the look before, and changed later.
[[gnu::noinline]] void mark_again(Block* const* blocks, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i)
    if (Slab* slab = slab_of(blocks[i]); slab != nullptr) slab->superslab->mark_changed();
}

template <auto put>
HAKMEM_INLINE void return_by(ThreadCache* cache, uint32_t size_class, Block* const* blocks, uint32_t count) {
  const ClassShape& shape = kClassShapes[size_class];
  const uint16_t look = Superslab::look_now();
  Block* const* const end = blocks + count;
  while (blocks != end) {
    // Blocks that were freed one after the other often stand in one slab.
    Slab* slab = own_slab_of(cache, size_class, *blocks);
    uint32_t returned = 0;
    if (slab != nullptr) [[likely]] {
      auto limit = std::min(static_cast<uint32_t>(end - blocks), slab->countdown);
      returned = put(slab, blocks, limit, shape);
    }
    if (returned == 0) [[unlikely]] {
      return_elsewhere(cache, size_class, *blocks++);
      continue;
    }
    blocks += returned;
    bool is_due = (slab->countdown -= returned) == 0;
    slab->superslab->mark_changed(look);
    if (is_due) settle_slab(cache, slab);
  }
  if constexpr (kBuild.stats)
    if (Superslab::look_now() != look) [[unlikely]]
      mark_again(end - count, count);
}

// Apart, for want of registers.
[[gnu::noinline]] void return_rows(ThreadCache* cache, uint32_t size_class, Block* const* blocks, uint32_t count) {
  return_by<put_rows>(cache, size_class, blocks, count);
}

}  // namespace

void return_to_slabs(ThreadCache* cache, uint32_t size_class, Block* const* blocks, uint32_t count) {
  if (stand_in_rows(blocks, count, kClassShapes[size_class].block_bytes))
    return return_rows(cache, size_class, blocks, count);
  return_by<put_run>(cache, size_class, blocks, count);
}

void check_bins(const ThreadCache* cache) {
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    auto check = [size_class](Block* block) {
      // Null: a sample.
      if (block != nullptr && !is_block_of(slab_of(block), size_class, block)) free_inside(block);
    };
    std::for_each(cache->bins[size_class].top, cache->bottom(size_class), check);
    if (!has_other_threads()) heap.pool.visit_blocks(size_class, check);
  }
}

void trim_bin(ThreadCache* cache, uint32_t size_class, uint32_t kept) {
  Block** newest = cache->bins[size_class].top;
  uint32_t count = take_newest(cache, size_class, kept);
  return_to_slabs(cache, size_class, newest, count);
}

void drain_pool(ThreadCache* cache, Drain drain) {
  constexpr uint32_t kMost = SharedPool::kMaxBlocks;
  Block* blocks[kMost];
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    if (drain == Drain::kIdle && !heap.pool.has_idle_blocks(size_class)) continue;
    uint32_t count = heap.pool.take_blocks(size_class, blocks + kMost, kMost);
    return_to_slabs(cache, size_class, blocks + kMost - count, count);
  }
}

namespace {

// Blocks that have been taken out of a bin go to threads that allocate, if they may want them, else back to their
// slabs.
void give_away(ThreadCache* cache, uint32_t size_class, Block* const* blocks, uint32_t count) {
  uint32_t given = heap.pool.give_blocks(size_class, blocks, count, is_shared(size_class));
  return_to_slabs(cache, size_class, blocks + given, count - given);
}

// The bin has filled without an allocation. It keeps half of what it may hold, and from the
// second time on without a refill it may hold less; nothing, where the thread only passes on
// what others allocate. The rest, the newest, goes back to slabs of the thread's own, if these
// are not shared, else to threads that allocate.
[[gnu::noinline]] void shrink_bin(ThreadCache* cache, uint32_t size_class) {
  ClassState& state = cache->classes[size_class];
  bool shares = is_shared(size_class);
  bool passes_on = shares ? state.refilled_at == 0 : !state.allocates() && has_other_threads();
  uint32_t limit = state.bin_limit;
  if (passes_on)
    limit = kBinShapes[size_class].passed_on;
  else if (state.has_overflowed && limit / 2 >= kLeastBinLimit)
    limit /= 2;
  state.has_overflowed = true;
  state.bin_limit = limit;
  uint32_t kept = passes_on ? 0 : limit / 2;
  Block** newest = cache->bins[size_class].top;
  uint32_t count = take_newest(cache, size_class, kept);
  bool is_own = !shares && !passes_on && count != 0 && own_slab_of(cache, size_class, newest[0]) != nullptr &&
                own_slab_of(cache, size_class, newest[count - 1]) != nullptr;
  is_own ? return_to_slabs(cache, size_class, newest, count) : give_away(cache, size_class, newest, count);
}

// Into a bin that is not full, and that takes `room` more frees.
inline void push_with_room(ClassState& state, Bin& bin, Block* block, uint32_t room) {
  if constexpr (kBuild.stats) {
    auto to_come = static_cast<uint32_t>(state.countdown.not_offered);
    room = std::min(room, to_come);
    state.countdown.not_offered = static_cast<int32_t>(to_come - room) - 1;
  }
  push(bin, block);
  bin.frees_left = room + 1;
}

// The same arguments as free_counted_out(), which calls these last and has no register to spare.
[[gnu::noinline]] void free_into_full(Block* block, Slab* slab) {
  ThreadCache* cache = thread_state.cache;
  uint32_t size_class = slab->size_class;
  shrink_bin(cache, size_class);
  ClassState& state = cache->classes[size_class];
  if (kBuild.stats && is_sample_next(state.countdown)) [[unlikely]]
    return free_at_sample(block, slab);
  uint32_t room = state.bin_limit - cache->blocks_in_bin(size_class) - 1;
  push_with_room(state, cache->bins[size_class], block, room);
  look_for_idle(cache);
}

[[gnu::noinline]] void let_go_of_big(ThreadCache* cache, uint32_t size_class, Block* block) {
  block->mark_free();
  is_shared(size_class) ? give_away(cache, size_class, &block, 1) : return_to_slabs(cache, size_class, &block, 1);
}

// Of a big class: each free is a look.
[[gnu::noinline]] void free_big(Block* block, Slab* slab) {
  ThreadCache* cache = thread_state.cache;
  uint32_t size_class = slab->size_class;
  if (!has_room_for_big(cache, size_class)) return let_go_of_big(cache, size_class, block);
  ClassState& state = cache->classes[size_class];
  state.is_used = true;
  if (kBuild.stats && is_sample_next(state.countdown)) [[unlikely]]
    return free_at_sample(block, slab);
  push_with_room(state, cache->bins[size_class], block, 0);
}

// A bin of small blocks has taken many. While blocks of other threads go home they were the
// thread's own: where these are most of what it frees, more may follow, as few are foreign then.
[[gnu::noinline]] void after_many_frees(ThreadCache* cache, ClassState& state) {
  auto more = static_cast<int32_t>(state.bin_limit / 8);  // for about half the limit
  if (state.to_send_home > 0) state.to_send_home = std::min(state.to_send_home + more, kSentHome);
  // A program in a steady state comes to no other cold path.
  heap.decay(cache->shard);
  look_for_idle(cache);
}

}  // namespace

void free_counted_out(Block* block, Slab* slab) {
  ThreadCache* cache = thread_state.cache;
  uint32_t size_class = slab->size_class;
  const BinShape& shape = kBinShapes[size_class];
  Bin& bin = cache->bins[size_class];
  bin.frees_left = 1;  // the block is not in it yet
  cache->classes[size_class].was_counted_out = true;
  if (!slab->is_block_start(reinterpret_cast<uintptr_t>(block))) [[unlikely]]
    return free_inside(block);
  if (shape.is_big) return free_big(block, slab);
  ClassState& state = cache->classes[size_class];
  bool is_first = !std::exchange(state.is_used, true);
  uint32_t blocks = cache->blocks_in_bin(size_class);
  uint32_t limit = state.bin_limit;
  if (blocks == limit) [[unlikely]]
    return metrics::slow_call(cache->counters, cache->shard, metrics::SlowCall::Free,
                              [=] { free_into_full(block, slab); });
  if (kBuild.stats && is_sample_next(state.countdown)) [[unlikely]]
    return free_at_sample(block, slab);
  // The bin has been allocated from: it may fill more.
  if (!is_first && !is_shared(size_class)) limit = 2 * limit < shape.capacity ? 2 * limit : shape.capacity;
  state.bin_limit = limit;
  push_with_room(state, bin, block, limit - (blocks + 1));
  // Small bins come here often.
  if (limit >= kLeastBinLimit) after_many_frees(cache, state);
}

}  // namespace hakmem
