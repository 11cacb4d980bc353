// The thread cache: what one thread allocates from and frees into.
//
// Per class it has a bin of free blocks (bin.h). allocate() takes the last one,
// and a free puts it there: neither touches more than the bin, the block and, to
// free it, the record of its slab. A refill fills an empty bin from the shared
// pool or the class's current slab; a full bin gives its newest blocks to the
// pool or back to their slabs. Everything but the hot path is in the other files
// of this folder: bin.cc, refill.cc, free.cc, idle.cc, sampling.cc, large.cc, lifetime.cc;
// and what a hardened build does besides, in hardened.cc.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/message.h"
#include "allocator/metrics/counters.h"
#include "allocator/platform/random.h"
#include "allocator/superslab/slab.h"
#include "allocator/thread_cache/bin.h"
#include "allocator/thread_cache/kept_slabs.h"
#include "allocator/thread_cache/quarantine.h"

namespace hakmem {

// Bin of a size up to kMaxTableBytes, in words, by (size + 15) / 16.
using BinTable = std::array<uint8_t, kMaxTableBytes / 16 + 1>;

constexpr BinTable make_bin_table() {
  BinTable table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint8_t>(size_class_of(i * 16) * kBinWords);
  return table;
}

// When the next sample of a class is due (sampling.h). How many objects were
// allocated follows from it.
struct SampleCountdown {
  uint32_t until_sample = 0;      // blocks before the sample: those in the bin, allocated since the last count, to come
  int32_t not_offered = -1;       // of those to come, what `frees_left` does not let in; -1: it ends at the sample
  uint32_t samples = 0;           // in the bin: null in place of a block
  uintptr_t replaced = 0;         // the block that a sample stands for in the bin, the last; 0: none yet
  bool is_sampling = false;       // else a new countdown follows, and no sample
  uint8_t doublings = 0;          // of the interval that it was drawn with
  uint8_t samples_doublings = 0;  // of the one that the samples in the bin were drawn with
};

struct ClassState {
  Slab* current = nullptr;  // the slab that refills take blocks from
  SlabList available;       // owned, with free blocks
  SlabList sleeping;        // owned, with too few of them
  uint32_t available_count = 0;
  uint32_t sleeping_count = 0;
  uint32_t taken = 0;  // slabs that refills took from elsewhere, less those with free blocks that it turned away from
  uint32_t least_available = 0;       // of available_count when refills took another slab, since release_idle() looked
  KeptSlabs kept_slabs;               // how many available ones, while there are other threads
  uint32_t bin_limit = 0;             // blocks that the bin may hold for now: its capacity at most
  int32_t to_send_home = -kSentHome;  // of other threads' blocks the next so many; negative: they stay here before
  bool has_overflowed = false;        // the bin, since the last refill
  bool is_used = false;               // since the thread began: else it has no block and no slab of the class
  uint64_t refilled_at = 0;           // in ticks(), while the class was shared last
  uint32_t carve_doublings = 0;       // by which refills carve more, while they find nothing else
  uint32_t big_blocks = 0;            // of a big class: in its bin when big_bytes was counted last
  bool was_refilled = false;          // since release_idle() looked last
  bool was_counted_out = false;       // the bin's frees, since then
  uint32_t blocks_seen = 0;           // in the bin then
  uint32_t frees_left_seen = 0;
  SampleCountdown countdown;  // builds with statistics

  // Whether the thread allocates from the class, or frees what it allocated; one that does not
  // passes on what others allocate. In a burst of frees the current slab is the first to come back.
  bool allocates() const { return current != nullptr || taken != 0; }
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
  // With `null_slots` for its bins: kBinSlots of them.
  constexpr explicit ThreadCache(Block** null_slots) : slots(null_slots) {
    for (uint32_t i = 0; i < kSizeClassCount; ++i) start_class(i);
  }
  // Of nobody: every bin is empty for ever, for want of slots that could be written.
  struct Nobody {};
  constexpr explicit ThreadCache(Nobody);

  // -- hot ------------------------------------------------------------------
  Bin bins[kSizeClassCount];
  BinTable bin_table = make_bin_table();

  // -- cold -----------------------------------------------------------------
  enum class Use : uint8_t { kFree, kThread, kOrphan, kLate, kParked };
  std::atomic<Use> use{Use::kFree};  // under the lock of the registry
  uint32_t shard = 0;                // the thread's number among counting threads, see metrics::shard_of()
  Block** slots;                     // of the bins
  ClassState classes[kSizeClassCount]{};
  RandomGenerator random{1};
  int64_t bytes_until_large_sample = 0;  // large and huge allocations draw per call
  uint32_t large_doublings = 0;          // of the interval that it was drawn with
  uint32_t age = 0;                      // of the heap, when release_idle() was through last
  uint32_t next_to_look_at = 0;          // its next class
  size_t big_bytes = 0;                  // in the bins of big classes, as of their last frees
  size_t most_big_bytes = kBigBytes;     // by how many threads there are, as of the last look for idle classes
  [[no_unique_address]] metrics::ThreadCounters<kBuild.stats> counters;
  [[no_unique_address]] std::conditional_t<kBuild.exact_counts, ExactCounts, NoExactCounts> exact{};

  ThreadCache* next_parked = nullptr;      // while it is parked; under the lock of the registry
  uint32_t parked_at = 0;                  // the age of the heap; the same
  int parked_on = 0;                       // the processor; the same
  ThreadCache* next_registered = nullptr;  // in the registry of all caches; written under its lock
  [[no_unique_address]] Quarantine<has(Mitigation::kDelayedReuse)> quarantine{};  // of what it freed lately

  uintptr_t tag() const { return reinterpret_cast<uintptr_t>(this); }

  // By words from the first bin.
  BinTop& top_at(uint64_t words) { return reinterpret_cast<BinTop*>(bins)[words]; }
  // The null slot below the blocks of a bin.
  constexpr Block** bottom(uint32_t size_class) const { return slots + kBinShapes[size_class].bottom; }
  // As in a new cache.
  constexpr void start_class(uint32_t size_class) {
    bins[size_class] = {bottom(size_class), 1};
    classes[size_class] = ClassState{};
    classes[size_class].bin_limit = std::min(kBinShapes[size_class].capacity, kFirstBinLimit);
  }
  // Blocks in the bin, samples that wait there included.
  uint32_t blocks_in_bin(uint32_t size_class) const {
    return static_cast<uint32_t>(bottom(size_class) - bins[size_class].top);
  }
};

// The cache of a thread that has none: every bin is empty, it owns no slab, and
// so every call takes the cold path, which starts the thread.
HAKMEM_HIDDEN extern const ThreadCache empty_cache;

enum class ThreadPhase : uint8_t { kNew, kRunning, kExited, kPrivate };

// Thread-local storage of the allocator: one cache line at most.
struct ThreadState {
  ThreadCache* cache;
  ThreadPhase phase;
  // `cache` for frees that are told a size, once it is known that they may end here: new_delete_forms.cc.
  ThreadCache* sized_cache = const_cast<ThreadCache*>(&empty_cache);
};
static_assert(sizeof(ThreadState) <= 64);
extern constinit thread_local ThreadState thread_state [[gnu::tls_model("initial-exec")]];

// Cold sides of allocate() and free(). They keep errno, except that allocation
// functions set ENOMEM where they return null.
[[gnu::noinline]] void* allocate_cold(size_t bytes);  // up to kMaxClassBytes
[[gnu::noinline]] void* allocate_above_table(size_t bytes);
[[gnu::noinline]] void free_cold(void* address);
[[gnu::noinline]] void free_foreign(void* address, Slab* slab);  // `slab` is its record
HAKMEM_COLD void free_suspect(Block* block, Slab* slab) noexcept;
HAKMEM_COLD void free_inside(Block* block);  // which is no block
HAKMEM_COLD void* allocate_again(size_t bytes);
// What these do first with kBlockStates, see hardened.cc.
[[gnu::noinline]] bool hand_out(Block* block);
[[gnu::noinline]] void free_checked(void* address);
[[gnu::noinline]] void free_counted_out(Block* block, Slab* slab);

// A block lost its free key: somebody has written to it since its free. It is
// leaked, and `again` allocates another.
template <void* (*again)(size_t)>
HAKMEM_COLD void* allocate_after(const Block* corrupted, size_t bytes) {
  report_misuse(Message::kCorruptedFreeList, corrupted);
  return again(bytes);
}

// The block is the program's from now on. False when somebody wrote to it since its free.
HAKMEM_INLINE bool take_mark(Block* block) {
  if constexpr (has(Mitigation::kBlockStates)) return hand_out(block);
  return block->take_key();
}

// Takes the last block of the bin at `bin`, which still has its free key; null when
// there is none.
//
// The empty asm statements make the compiler take `block` and `bin` for new
// values: it then returns the block from the register it was read into, and adds
// to the bin in place instead of through a register. Two instructions less.
HAKMEM_INLINE Block* take_from(ThreadCache* cache, uint64_t bin) {
  Block* block = *cache->top_at(bin);
  __asm__("" : "+r"(block));
  if (block == nullptr) [[unlikely]]
    return nullptr;
  __asm__("" : "+r"(bin));
  ++cache->top_at(bin);
  cache->exact.count_allocation(static_cast<uint32_t>(bin / kBinWords));
  return block;
}

// The last block of the bin at `bin`; `cold(bytes)` when there is none.
template <void* (*cold)(size_t) = allocate_cold, void* (*again)(size_t) = allocate_again>
HAKMEM_INLINE void* allocate_from(ThreadCache* cache, uint64_t bin, size_t bytes) {
  Block* block = take_from(cache, bin);
  if (block == nullptr) [[unlikely]]
    return cold(bytes);
  if (!take_mark(block)) [[unlikely]]
    return allocate_after<again>(block, bytes);
  return block;
}

// Memory for `bytes`, aligned to kBlockAlignment; null and ENOMEM when there is
// none. Any thread, at any time.
template <void* (*cold)(size_t) = allocate_cold, void* (*above_table)(size_t) = allocate_above_table,
          void* (*again)(size_t) = allocate_again>
HAKMEM_INLINE void* allocate(size_t bytes) {
  if (bytes > kMaxTableBytes) [[unlikely]]
    return above_table(bytes);
  ThreadCache* cache = thread_state.cache;
  return allocate_from<cold, again>(cache, cache->bin_table[(bytes + 15) / 16], bytes);
}

// The owner's free of a block: to the thread's bin, with the free key. That a
// block starts there is checked at once in builds with assertions; elsewhere when it
// leaves the bin, see return_to_slabs(). `counted_out` gets what the free was told besides.
template <auto counted_out = free_counted_out, class... Told>
HAKMEM_INLINE void free_owned(ThreadCache* cache, Slab* slab, Block* block, Told... told) {
  uint64_t key = free_key;  // read once: after a store the compiler would read it again
  if (kHasFreeKey && block->key == key) [[unlikely]]
    return free_suspect(block, slab);
  if constexpr (kBuild.assertions) {
    if (!slab->is_block_start(reinterpret_cast<uintptr_t>(block))) return free_inside(block);
  }
  cache->exact.count_free(slab->size_class);
  Bin* bin = slab->bin;
  if (--bin->frees_left == 0) [[unlikely]]
    return counted_out(block, slab, told...);
  if constexpr (kHasFreeKey) block->key = key;
  bin->top[-1] = block;
  // The slot before the top, so that a child forked in between loses the block
  // but finds none twice. And the compiler subtracts in place, see allocate_from().
  __asm__("" : "+r"(bin) : : "memory");
  --bin->top;
}

// Where the block of a free goes: on to its thread's bin.
HAKMEM_INLINE void free_to_bin(void* address) {
  size_t unit = (reinterpret_cast<uintptr_t>(address) - slab_map_base) >> kUnitShift;
  if (unit >= slab_map_units) [[unlikely]]
    return free_cold(address);
  Slab* slab = slab_map_records + unit;
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  if (owner_word != thread_state.cache->tag()) [[unlikely]]
    return free_foreign(address, slab);
  free_owned(reinterpret_cast<ThreadCache*>(owner_word), slab, static_cast<Block*>(address));
}

// The same of a block of `bytes`. Whatever leaves this path takes the size along, and looks
// at it there: here it costs nothing.
template <auto cold, auto foreign, auto counted_out>
HAKMEM_INLINE void free_of_size(void* address, size_t bytes) {
  size_t unit = (reinterpret_cast<uintptr_t>(address) - slab_map_base) >> kUnitShift;
  if (unit >= slab_map_units) [[unlikely]]
    return cold(address, bytes);
  Slab* slab = slab_map_records + unit;
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  if (owner_word != thread_state.sized_cache->tag()) [[unlikely]]
    return foreign(address, bytes, slab);
  free_owned<counted_out>(reinterpret_cast<ThreadCache*>(owner_word), slab, static_cast<Block*>(address), bytes);
}

// Frees what allocate() and its relatives returned; null is ignored. Any other
// pointer is a misuse.
HAKMEM_INLINE void free(void* address) {
  if constexpr (has(Mitigation::kBlockStates)) return free_checked(address);
  free_to_bin(address);
}

}  // namespace hakmem
