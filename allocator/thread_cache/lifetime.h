// The registry of thread caches, for views.
#pragma once

#include <atomic>

#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// All caches ever made, through ThreadCache::next_registered; those in use have
// Use::kThread, that of ended threads Use::kLate. Grows at the front under the registry's lock; never shrinks.
extern std::atomic<ThreadCache*> registered_caches;

}  // namespace hakmem
