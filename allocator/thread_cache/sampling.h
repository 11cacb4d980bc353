// Sampling by a slot that is null: which allocations are samples is decided when
// blocks come into a bin, and each block that leaves one came into it once. So
// each class of a thread counts down what its bin gets, which refills and
// `frees_left` tell; no call counts. Where a sample is due null stands in the bin:
// the allocation that takes it reaches the cold path by itself.
//
// A sampled object stands in a slab that no thread owns, so that its free
// reaches the cold path by itself too. Only builds with statistics sample.
#pragma once

#include <cstdint>

#include "allocator/base/lock.h"
#include "allocator/base/probe.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// Counts what was allocated from the bin: what is neither there nor to come. A free
// moves one from what is to come to what is there.
inline void count_allocations(ThreadCache* cache, uint32_t size_class) {
  auto& countdown = cache->classes[size_class].countdown;
  auto frees_left = static_cast<int32_t>(cache->bins[size_class].frees_left);
  auto to_come = static_cast<uint32_t>(frees_left + countdown.not_offered);
  uint32_t allocated = countdown.until_sample - to_come - cache->blocks_in_bin(size_class);
  HAKMEM_ASSERT(allocated <= countdown.until_sample);
  countdown.until_sample -= allocated;
  cache->counters.add<metrics::Metric::kAllocations>(size_class, allocated);
}

// Whether what comes into a bin next, by the free that was its last, is a sample.
inline bool is_sample_next(const SampleCountdown& countdown) { return countdown.not_offered < 0; }

// That free, into a bin that is not full.
HAKMEM_COLD void free_at_sample(Block* block, Slab* slab);

// Puts the samples in that are due among the newest blocks of a bin, whose
// allocations have just been counted.
HAKMEM_COLD void put_samples(ThreadCache* cache, uint32_t size_class);

// The top of the bin is a sample: allocates it. When there is no memory for it, or
// sampling is off by now, any block, and no more samples for a while.
HAKMEM_COLD void* allocate_sample(ThreadCache* cache, uint32_t size_class, size_t bytes);

// Removes the samples from `blocks`, which have been taken out of the bin; how many are left.
HAKMEM_COLD uint32_t remove_samples(SampleCountdown& countdown, Block** blocks, uint32_t count);

// Draws for `bytes` of an allocation that has no class: whether it is a sample, of large_doublings.
bool sample_large(ThreadCache* cache, size_t bytes);

// Whether somebody listens to the probes otel_memory:alloc and otel_memory:free: written
// from outside the process.
extern "C" {
HAKMEM_HIDDEN extern volatile uint16_t hakmem_alloc_semaphore;
HAKMEM_HIDDEN extern volatile uint16_t hakmem_free_semaphore;
}
inline bool somebody_listens_to(const volatile uint16_t& semaphore) {
  if constexpr (kHasProbes) return semaphore != 0;
  return false;
}
// Whether anybody learns of samples: without, what is due is drawn and counted, and no block is one.
inline bool are_samples_wanted() {
  return metrics::hooks.on_sample != nullptr || metrics::guards_samples.load(std::memory_order_relaxed) ||
         somebody_listens_to(hakmem_alloc_semaphore) || somebody_listens_to(hakmem_free_semaphore);
}
HAKMEM_COLD void tell_sample(const metrics::Sample& sample);
HAKMEM_COLD void tell_sample_free(const void* address);

// Calls the probe and the hook of telemetry, where there are any; nothing in the release build.
inline void report_sample(const metrics::Sample& sample) {
  if constexpr (kBuild.stats) {
    if (metrics::hooks.on_sample != nullptr || somebody_listens_to(hakmem_alloc_semaphore)) [[unlikely]]
      tell_sample(sample);
  }
}
inline void report_sample_free(const void* address) {
  if constexpr (kBuild.stats) {
    if (metrics::hooks.on_sample_free != nullptr || somebody_listens_to(hakmem_free_semaphore)) [[unlikely]]
      tell_sample_free(address);
  }
}

// Any thread; `block` is a block of the sampled `slab`. A double free when it is free.
HAKMEM_COLD void free_sample(Slab* slab, Block* block, uint32_t shard);

// The slabs of sampled objects.
struct SampledSlabs {
  RankedLock lock{LockRank::kSamples};
  SlabList part_full[kSizeClassCount] HAKMEM_GUARDED_BY(lock){};  // have a free or an uncarved block
  // Of the slabs that became empty, those that were the last of their class and came last: for the next samples.
  // The others go back. What is here may be in use again.
  static constexpr uint32_t kKept = 4;
  Slab* kept[kKept] HAKMEM_GUARDED_BY(lock){};
  uint32_t next_kept HAKMEM_GUARDED_BY(lock) = 0;
};
extern SampledSlabs sampled_slabs;

}  // namespace hakmem
