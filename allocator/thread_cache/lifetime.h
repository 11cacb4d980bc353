// The registry of thread caches, for views, and the flush of the own one.
#pragma once

#include <atomic>

#include "allocator/thread_cache/registry.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// All caches ever made, through ThreadCache::next_registered; those in use have
// Use::kThread, those that ended threads left Use::kParked, the one that serves what these still do
// Use::kLate. Grows at the front under the registry's lock; never shrinks.
extern std::atomic<ThreadCache*> registered_caches;

// The first of them. Any thread.
inline ThreadCache* first_registered_cache() { return Registry<>::first(registered_caches); }

// Gives up what the calling thread holds back, and the blocks of the shared pool:
// blocks go to their slabs, and these, when empty, to their superslabs; part-full
// ones to the pool, while full ones are nobody's.
void flush_thread_cache();

}  // namespace hakmem
