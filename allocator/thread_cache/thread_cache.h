// The thread cache: what one thread allocates from and frees into.
//
// Per class it has a list of free blocks, filled by refills from the class's
// current slab. allocate() pops that list. A free by the slab's owner goes to
// the slab's own list, which a later refill takes whole. Everything else is in
// refill.cc, free.cc and lifetime.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/metrics/counters.h"
#include "allocator/platform/random.h"
#include "allocator/superslab/slab.h"

namespace hakmem {

// Class of a size up to kMaxTableBytes, by (size + 15) / 16.
using ClassTable = std::array<uint8_t, kMaxTableBytes / 16 + 1>;

constexpr ClassTable make_class_table() {
  ClassTable table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint8_t>(size_class_of(i * 16));
  return table;
}

struct ThreadCache;

struct ClassState {
  Slab* current = nullptr;  // the only slab that blocks of the list come from
  SlabList available;       // owned, with free blocks
  SlabList sleeping;        // owned, with too few of them
  uint32_t available_count = 0;
  uint32_t sleeping_count = 0;
  uint32_t until_sample = 0;  // objects handed out before the next sample (builds with statistics)
  bool is_sampling = false;   // whether a sample follows them
  uint32_t listed_bound = 0;  // objects handed to the list by the last refill
};

// Every call counted, in the debug build; kept when the cache gets a new thread.
struct ExactCounts {
  uint64_t allocations[metrics::kSizeClassCount];
  uint64_t frees[metrics::kSizeClassCount];  // of blocks of any thread, by this thread
  void count_allocation(uint32_t size_class) { ++allocations[size_class]; }
  void count_free(uint32_t size_class) { ++frees[size_class]; }
  void add_to(uint32_t size_class, uint64_t& allocated, uint64_t& freed) const {
    allocated += allocations[size_class];
    freed += frees[size_class];
  }
};
struct NoExactCounts {
  void count_allocation(uint32_t) {}
  void count_free(uint32_t) {}
  void add_to(uint32_t, uint64_t&, uint64_t&) const {}
};

// All fields are the thread's own, but where it is said otherwise.
struct alignas(64) ThreadCache {
  constexpr ThreadCache() {
    for (Block*& list : lists) list = const_cast<Block*>(&empty_block);
  }

  // -- hot ------------------------------------------------------------------
  Block* lists[kSizeClassCount];  // &empty_block when empty
  ClassTable class_table = make_class_table();

  // -- cold -----------------------------------------------------------------
  ClassState classes[kSizeClassCount];
  RandomGenerator random{1};
  int64_t bytes_until_large_sample = 0;  // large and huge allocations draw per call
  [[no_unique_address]] metrics::ThreadCounters<kBuild.stats> counters;
  uint32_t shard = 0;  // of the counters
  [[no_unique_address]] std::conditional_t<kBuild.exact_counts, ExactCounts, NoExactCounts> exact{};

  // Registry of all caches; written under its lock.
  ThreadCache* next_registered = nullptr;
  // kNever: the late cache, until it is needed for the first time.
  enum class Use : uint8_t { kNever, kFree, kThread, kOrphan, kLate };
  std::atomic<Use> use{Use::kNever};

  uintptr_t tag() const { return reinterpret_cast<uintptr_t>(this); }
};

// The cache of a thread that has none: every list is empty, it owns no slab,
// and so every call takes the cold path, which starts the thread.
HAKMEM_HIDDEN extern const ThreadCache empty_cache;

enum class ThreadPhase : uint8_t { kNew, kRunning, kExited };

// Thread-local storage of the allocator: one cache line at most.
struct ThreadState {
  ThreadCache* cache;
  ThreadPhase phase;
};
static_assert(sizeof(ThreadState) <= 64);
extern constinit thread_local ThreadState thread_state [[gnu::tls_model("initial-exec")]];

// Cold sides of allocate() and free(). They keep errno, except that allocation
// functions set ENOMEM where they return null.
[[gnu::noinline]] void* allocate_cold(size_t bytes);  // up to kMaxClassBytes
[[gnu::noinline]] void* allocate_above_table(size_t bytes);
[[gnu::noinline]] void free_cold(void* address);
HAKMEM_COLD void free_suspect(Block* block, Slab* slab);
[[gnu::noinline]] void settle_slab(Slab* slab);

// Pops the class's list; its link is checked before it is followed.
HAKMEM_INLINE void* allocate_class(ThreadCache* cache, uint32_t size_class, size_t bytes) {
  Block* block = cache->lists[size_class];
  uint64_t distance = block->distance();
  if (!Block::is_valid(distance)) [[unlikely]]
    return allocate_cold(bytes);
  cache->lists[size_class] = block->at(distance);
  block->clear_key();
  cache->exact.count_allocation(size_class);
  return block;
}

// Memory for `bytes`, aligned to kBlockAlignment; null and ENOMEM when there is
// none. Any thread, at any time.
HAKMEM_INLINE void* allocate(size_t bytes) {
  if (bytes > kMaxTableBytes) [[unlikely]]
    return allocate_above_table(bytes);
  ThreadCache* cache = thread_state.cache;
  return allocate_class(cache, cache->class_table[(bytes + 15) / 16], bytes);
}

// The owner's free of a block: to the slab's list, with encoded link and key.
HAKMEM_INLINE void free_owned(ThreadCache* cache, Slab* slab, Block* block) {
  HAKMEM_ASSERT(slab->is_block_start(reinterpret_cast<uintptr_t>(block)));
  if (block->looks_free()) [[unlikely]]
    return free_suspect(block, slab);
  block->mark_free();
  block->set_next(slab->free);
  slab->free = block;
  cache->exact.count_free(slab->size_class);
  if (--slab->countdown == 0) [[unlikely]]
    settle_slab(slab);
}

// Frees what allocate() and its relatives returned; null is ignored. Ends the
// process for a pointer that is not ours.
HAKMEM_INLINE void free(void* address) {
  size_t unit = (reinterpret_cast<uintptr_t>(address) - slab_map_base) >> kUnitShift;
  if (unit >= slab_map_units) [[unlikely]]
    return free_cold(address);
  Slab* slab = slab_map_records + unit;
  ThreadCache* cache = thread_state.cache;
  if (slab->owner.load(std::memory_order_relaxed) != cache->tag()) [[unlikely]]
    return free_cold(address);
  free_owned(cache, slab, static_cast<Block*>(address));
}

}  // namespace hakmem
