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

// Counts the objects that were allocated since the bin was closed, of which
// `blocks` are left, and brings back those that waited for the sample.
inline void count_allocations(ThreadCache* cache, uint32_t size_class, uint32_t blocks) {
  auto& countdown = cache->classes[size_class].countdown;
  if (countdown.hidden != nullptr) [[unlikely]]
    bring_back_hidden(countdown);
  // A free moves one from what is to come to what is there; an allocation takes one away.
  uint32_t allocations =
      countdown.blocks_and_frees - blocks - static_cast<uint32_t>(cache->bins[size_class].frees_left);
  HAKMEM_ASSERT(allocations <= countdown.until_sample);
  countdown.until_sample -= allocations;
  cache->counters.add<metrics::Metric::kAllocations>(size_class, allocations);
}

// For a thread that frees before it allocates.
HAKMEM_COLD void draw_first_sample(ThreadCache* cache, uint32_t size_class);

// Closes a bin that with the `blocks` it has and frees to come, `room` of them,
// would offer more objects than may be allocated before the sample.
HAKMEM_COLD void stop_at_sample(ThreadCache* cache, uint32_t size_class, uint32_t blocks, uint32_t room);

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
