// Sampling by a shortened refill: each class of a thread counts down the
// objects until its next sample, and a refill hands out no more than those, so
// that the sampled allocation reaches the cold path by itself.
//
// A sampled object stands in a slab that no thread owns, so that its free
// reaches the cold path by itself too. Only builds with statistics sample.
#pragma once

#include <cstdint>

#include "allocator/base/lock.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// The class's countdown (ClassState::until_sample) is at 0: draws the first one,
// or places the object that is due and draws the next. Returns the object; null
// when none is due, or there is no memory for it. until_sample is above 0 then.
HAKMEM_COLD void* sample_if_due(ThreadCache* cache, uint32_t size_class, size_t bytes);

// Credits objects that a flushed list never handed to the program.
void objects_returned(ThreadCache* cache, uint32_t size_class, uint32_t count);

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
