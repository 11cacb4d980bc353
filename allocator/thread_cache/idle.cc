// What a thread keeps of classes that it uses no more, or less than before.
//
// A thread that has once used a class has blocks of it in its bin, and a slab that is perhaps empty but
// for these. Of a few classes that is little; but a thread that now and then allocates of any size comes
// to have some of all, and eight such threads more than a small heap is. So every other second in which it
// refills, or frees much, a thread looks at its classes: the blocks of one that was not used since the look
// before go back to their slabs, and half of those of a bin that needed no refill. As many slabs as no refill
// needed go to other threads: threads that pass their blocks on would each keep what each needed at most.
//
// Not sooner than after a second: a class that comes back after an eighth of one begins another slab, on pages
// that the one before had not touched (docs/measurements.md, Classes that a thread uses no more).
#include <algorithm>
#include <utility>

#include "allocator/thread_cache/internal.h"

namespace hakmem {
namespace {

// One call of the program ends its part of a look after the slab with which it comes to so many blocks, of which a
// slab counts as some; the next ones do the rest. What a class has more slabs is left to later looks.
constexpr uint32_t kEnoughReturned = 512;
constexpr uint32_t kBlocksOfSlab = 32;
constexpr uint32_t kMaxReturnedSlabs = 8;  // of each list

// What a slab that goes is worth: what others have freed into it is collected then.
uint32_t blocks_of(const Slab* slab) {
  return kBlocksOfSlab + RemoteList::count(slab->remote.load(std::memory_order_relaxed));
}

// Returns how many blocks were gone through for it.
uint32_t let_go_of_some(ThreadCache* cache, SlabList& slabs, uint32_t& count) {
  uint32_t returned = 0;
  for (uint32_t i = 0; i < kMaxReturnedSlabs && returned < kEnoughReturned && !slabs.empty(); ++i) {
    Slab* slab = slabs.last();
    slabs.remove(slab);
    --count;
    returned += blocks_of(slab);
    settle_and_count(cache, slab);
    let_go(cache, slab);
  }
  return returned;
}

// Others may use what is free in the slabs of the class. Returns the same.
uint32_t let_go_of_slabs(ThreadCache* cache, ClassState& state) {
  uint32_t returned = 0;
  if (state.current != nullptr) {
    returned += blocks_of(state.current);
    let_go_of_current(cache, state);
  }
  returned += let_go_of_some(cache, state.available, state.available_count);
  returned += let_go_of_some(cache, state.sleeping, state.sleeping_count);
  state.taken = std::min(state.taken, state.available_count + state.sleeping_count);
  state.kept_slabs = {};
  return returned;
}

// Of a class in use: as many slabs as no refill needed go to others. Returns the same.
uint32_t let_go_of_surplus(ThreadCache* cache, uint32_t size_class) {
  ClassState& state = cache->classes[size_class];
  uint32_t returned = 0;
  uint32_t surplus = std::min({state.least_available, state.available_count, kMaxReturnedSlabs});
  for (; surplus > 0 && returned < kEnoughReturned; --surplus) {
    returned += blocks_of(state.available.last());
    let_go_of_available(cache, state);
  }
  if (returned < kEnoughReturned) returned += tidy_class(cache, size_class);
  state.least_available = state.available_count;
  return returned;
}

// Returns how many blocks went back, slabs with them.
uint32_t release_class(ThreadCache* cache, uint32_t size_class) {
  ClassState& state = cache->classes[size_class];
  Bin& bin = cache->bins[size_class];
  if (!state.is_used) return 0;
  uint32_t blocks = cache->blocks_in_bin(size_class);
  bool was_refilled = std::exchange(state.was_refilled, false);
  bool was_counted_out = std::exchange(state.was_counted_out, false);
  // Without a refill and without a new count of frees each free shows in the count, and of allocations alone each
  // in the bin.
  bool is_idle =
      !was_refilled && !was_counted_out && state.blocks_seen == blocks && state.frees_left_seen == bin.frees_left;
  uint32_t kept = was_refilled ? blocks : is_idle ? 0 : blocks - blocks / 2;
  if (kept != blocks) {
    if constexpr (kBuild.stats) count_allocations(cache, size_class);
    trim_bin(cache, size_class, kept);
    offer_bin(cache, size_class);
  }
  uint32_t returned = blocks - kept;
  if (is_idle) state.carve_doublings = 0;
  if (has_other_threads()) returned += is_idle ? let_go_of_slabs(cache, state) : let_go_of_surplus(cache, size_class);
  state.blocks_seen = cache->blocks_in_bin(size_class);
  state.frees_left_seen = static_cast<uint32_t>(bin.frees_left);
  return returned;
}

}  // namespace

void release_idle(ThreadCache* cache) {
  uint32_t returned = 0;
  while (returned < kEnoughReturned) {
    returned += release_class(cache, cache->next_to_look_at++);
    if (cache->next_to_look_at < kSizeClassCount) continue;
    cache->next_to_look_at = 0;
    cache->age = heap.age();
    release_parked(cache, Parked::kIdle);
    cache->most_big_bytes = std::clamp(kBigBytesOfAll / std::max(thread_count(), 1u), kLeastBigBytes, kBigBytes);
    return;
  }
}

}  // namespace hakmem
