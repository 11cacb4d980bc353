// Sampling by a shortened bin: each class of a thread counts down the objects
// until its next sample. A bin never offers more of them before its cold path
// is entered: blocks that it has, and frees that it takes until it is looked
// at. So the sampled allocation finds the bin empty and reaches the cold path by
// itself.
//
// A sampled object stands in a slab that no thread owns, so that its free
// reaches the cold path by itself too. Only builds with statistics sample.
#pragma once

#include <cstdint>

#include "allocator/base/lock.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

HAKMEM_COLD void bring_back_hidden(SampleCountdown& countdown);

// Leaves of what the bin has offered what was allocated, while the bin is open; brings
// back the blocks that waited for the sample. A free moves one from what is to come
// to what is there; an allocation takes one away.
inline void take_off_what_is_left(ThreadCache* cache, uint32_t size_class, uint32_t blocks) {
  auto& countdown = cache->classes[size_class].countdown;
  if (countdown.hidden != nullptr) [[unlikely]]
    bring_back_hidden(countdown);
  countdown.offered -= blocks + static_cast<uint32_t>(cache->bins[size_class].frees_left);
  HAKMEM_ASSERT(countdown.offered <= countdown.until_sample);
}

// Counts the allocations from an open bin.
inline void count_allocations(ThreadCache* cache, uint32_t size_class) {
  auto& countdown = cache->classes[size_class].countdown;
  countdown.until_sample -= countdown.offered;
  cache->counters.add<metrics::Metric::kAllocations>(size_class, countdown.offered);
  countdown.offered = 0;
}

// Closes a bin that with the `blocks` it has and frees to come, `room` of them,
// would offer more objects than may be allocated before the sample.
void stop_at_sample(ThreadCache* cache, uint32_t size_class, uint32_t blocks, uint32_t room);

// Frees a block into a bin that may not take `room` more frees before the sample.
HAKMEM_COLD void free_before_sample(ThreadCache* cache, uint32_t size_class, Block* block, uint32_t room);

// The class's countdown is at 0: draws the first one, or places the object that
// is due and draws the next. Returns the object; null when none is due, or there
// is no memory for it. The countdown is above 0 then.
HAKMEM_COLD void* sample_if_due(ThreadCache* cache, uint32_t size_class, size_t bytes);

// Draws for an allocation that has no class.
void sample_large(ThreadCache* cache, size_t bytes);

// Any thread; `block` lies in the sampled `slab`.
HAKMEM_COLD void free_sample(Slab* slab, Block* block, uint32_t shard);

// The slabs of sampled objects.
struct SampledSlabs {
  RankedLock lock{LockRank::kSamples};
  SlabList part_full[kSizeClassCount] HAKMEM_GUARDED_BY(lock){};  // have a free or an uncarved block
};
extern SampledSlabs sampled_slabs;

}  // namespace hakmem
