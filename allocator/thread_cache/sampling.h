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

// Objects of the class that may be handed out before the next sample; 0: the
// next allocation is the sample.
uint32_t objects_until_sample(ThreadCache* cache, uint32_t size_class);

// Tells the countdown that a refill handed out `count` objects.
void objects_handed_out(ThreadCache* cache, uint32_t size_class, uint32_t count);

// Credits objects that a flushed list never handed to the program.
void objects_returned(ThreadCache* cache, uint32_t size_class, uint32_t count);

// Draws for an allocation that has no class.
void sample_large(ThreadCache* cache, size_t bytes);

// Places a sampled object, and draws the next countdown. Null when there is no memory.
HAKMEM_COLD void* allocate_sample(ThreadCache* cache, uint32_t size_class);

// Any thread; `block` lies in the sampled `slab`.
HAKMEM_COLD void free_sample(Slab* slab, Block* block, uint32_t shard);

// The slabs of sampled objects.
struct SampledSlabs {
  RankedLock lock{LockRank::kSamples};
  SlabList part_full[kSizeClassCount] HAKMEM_GUARDED_BY(lock){};  // have a free or an uncarved block
};
extern SampledSlabs sampled_slabs;

}  // namespace hakmem
