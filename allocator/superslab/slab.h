// Slab: one unit of 32 KiB, or a span of several, that holds blocks of one size
// class. Its record stands apart from its blocks, one record a unit.
//
// States, and the verbs that change them:
//
//   free       the unit belongs to no slab                    <- retire
//   current    a thread refills a class from it               <- next_slab
//   available  owned, has free blocks, waits to be current    <- place
//   sleeping   owned, too few free blocks to be worth it      <- place
//   unowned    its owner turned away, nearly all blocks live   <- abandon
//   pooled     part-full, left in the shared pool             <- give
//   sampled    holds sampled objects; no thread owns it ever
//   large      one allocation of its own
//
// Invariant, for the owner, after settle():
//   carved == used + blocks in the free map
//   used   == blocks held by the program, in a bin or the pool, or on `remote`
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/metrics/step_timer.h"
#include "allocator/superslab/block.h"
#include "allocator/superslab/size_class.h"
#include "allocator/superslab/slab_words.h"

namespace hakmem {

using SlabState = metrics::SlabState;

struct Superslab;
struct Bin;  // thread_cache/bin.h

// One bit for each block of a unit of the smallest class.
inline constexpr uint32_t kFreeMapWords = kUnitBytes / kBlockAlignment / 64;
static_assert([] {
  for (const ClassShape& shape : kClassShapes)
    if (shape.capacity > kFreeMapWords * 64) return false;
  return true;
}());

struct alignas(64) Slab {
  // -- the line that every free reads; written as the slab changes hands or state, or is carved ---
  std::atomic<uintptr_t> owner;  // claimed by compare-and-swap from kUnowned; else written by the owner or under a lock
  uintptr_t start;               // address of the first block
  uint64_t* free_map;            // blocks that came back from bins: one of the unit's maps, chosen as it is cut
  Superslab* superslab;          // set once, when the superslab is committed
  Bin* bin;                      // of the owner, for the class; set by a thread that becomes the owner
  size_t requested_bytes;        // large only
  uint32_t carved;
  uint16_t units;       // of the span; in its first record
  uint16_t unit;        // index of this record within its span
  uint32_t size_class;  // metrics::kLargeClass for a large allocation
  SlabState state;
  bool zeroed;  // held no old content when it was cut: a large allocation need not be cleared

  // -- the line that the owner counts in, and others push to -------------------------------------
  alignas(64) std::atomic<uint64_t> remote;  // RemoteList; any thread pushes, the owner takes all
  uint32_t countdown;                        // blocks that may come back until settle() is due
  uint32_t countdown_start;
  uint32_t used;      // as of the last settle()
  uint8_t free_word;  // no word of the free map below this one has a bit
  Slab* next;         // in the owner's or the pool's list of slabs
  Slab* previous;
  [[no_unique_address]] metrics::CarveTime<kBuild.stats> carve_time;

  const ClassShape& shape() const { return kClassShapes[size_class]; }
  uint32_t settled_frees() const { return countdown_start - countdown; }
  uint32_t listed() const { return carved - used; }  // in the free map, after settle()
  Slab* head() { return this - unit; }

  // Takes the frees since the last time into account. Owner only. Returns how many they were.
  uint32_t settle() {
    uint32_t frees = settled_frees();
    used -= frees;
    countdown_start = countdown;
    return frees;
  }

  // Sets after how many blocks that the owner puts back it settles. Owner only, settled.
  void set_countdown(uint32_t frees) { countdown = countdown_start = frees; }

  // Of the block that `address`, which lies in the slab, is in.
  uint64_t index_of(uintptr_t address) const { return (address - start) * shape().reciprocal >> kReciprocalShift; }

  // Whether a block that was carved starts at `address`, which lies in the slab.
  bool is_block_start(uintptr_t address) {
    uint64_t index = index_of(address);
    // Relaxed: the owner may be carving further.
    return index * shape().block_bytes == address - start &&
           index < std::atomic_ref(carved).load(std::memory_order_relaxed);
  }

  // The free map stands apart from the blocks: no block is touched when it comes
  // back or is taken, and those of the lowest addresses are taken first. Owner only.
  void put_free(Block* block) {
    uint64_t index = index_of(reinterpret_cast<uintptr_t>(block));
    uint32_t word = static_cast<uint32_t>(index / 64);
    free_map[word] |= uint64_t{1} << index % 64;
    if (word < free_word) free_word = static_cast<uint8_t>(word);
  }
  // The same where the program may have freed a wrong pointer to the slab, or a
  // block twice. Nothing changes when it did: whether `block` is one that may come
  // back. `shape` is that of the slab.
  HAKMEM_INLINE bool try_put_free(Block* block, const ClassShape& shape) {
    if constexpr (!has(Mitigation::kCheckedLists)) {
      put_free(block);
      return true;
    }
    uintptr_t offset = reinterpret_cast<uintptr_t>(block) - start;
    uint64_t index = offset * shape.reciprocal >> kReciprocalShift;
    if (index * shape.block_bytes != offset || index >= carved) [[unlikely]]
      return false;
    uint64_t word = index / 64;
    uint64_t bits = free_map[word];
    uint64_t bit = uint64_t{1} << index % 64;
    if ((bits & bit) != 0) [[unlikely]]
      return false;
    free_map[word] = bits | bit;
    if (word < free_word) free_word = static_cast<uint8_t>(word);
    return true;
  }
  // The same for a run of blocks, up to the first that is none of the slab's or may not come back.
  // Returns how many came back. A child forked in the middle may lose the blocks of one word.
  HAKMEM_INLINE uint32_t put_free_run(Block* const* blocks, uint32_t limit, const ClassShape& shape) {
    HAKMEM_ASSERT(limit != 0);
    uint64_t* map = free_map;  // in registers, as is the word that neighbours share
    uintptr_t first = start;
    uint64_t count = carved;
    uint64_t lowest = free_word;
    uint64_t word = lowest;
    uint64_t bits = map[word];
    uint32_t done = 0;
    do {
      uint64_t offset = reinterpret_cast<uintptr_t>(blocks[done]) - first;
      uint64_t index = offset * shape.reciprocal >> kReciprocalShift;
      if (index * shape.block_bytes != offset || index >= count) break;  // so of a block of any other slab
      if (index / 64 != word) {
        map[word] = bits;
        word = index / 64;
        bits = map[word];
        lowest = word < lowest ? word : lowest;
      }
      uint64_t bit = uint64_t{1} << index % 64;
      if ((bits & bit) != 0) [[unlikely]]
        break;
      bits |= bit;
    } while (++done != limit);
    map[word] = bits;
    free_word = static_cast<uint8_t>(lowest);
    return done;
  }
  // The same for blocks most of which stand next to each other, upwards or downwards: they are compared with
  // where they have to be, and their bits are set by one mask. Of others it takes longer.
  uint32_t put_free_rows(Block* const* blocks, uint32_t limit);
  // Takes up to `limit` blocks; `blocks` gets them in the order of their
  // addresses. Returns how many; as many as there are, but for a child forked in
  // the middle of a change.
  uint32_t take_free(Block** blocks, uint32_t limit);
  void clear_free_map() {
    for (uint32_t word = 0; word * 64 < carved; ++word) {
      free_map[word] = 0;
      __asm__("");  // a loop, and no call of memset: most slabs have few words
    }
    free_word = 0;
  }

  // Any thread, as of some moment.
  bool has_free(const Block* block) const;
  uint32_t count_free() const;

  bool is_exhausted() const { return used == shape().capacity; }  // after settle()

  // Debug builds and tests; owner only.
  bool is_consistent() const;
};
static_assert(sizeof(Slab) == 128);
static_assert(sizeof(Slab) * kUnitsPerSuperslab == kSuperslabMetadataBytes);

// Never reached by frees: of a slab that no thread owns.
inline constexpr uint32_t kNoThreshold = 1u << 31;

// A doubly linked list of slabs through Slab::next.
class SlabList {
 public:
  Slab* first() const { return first_; }
  Slab* last() const { return last_; }
  bool empty() const { return first_ == nullptr; }
  void push_front(Slab* slab) {
    slab->previous = nullptr;
    slab->next = first_;
    (first_ != nullptr ? first_->previous : last_) = slab;
    first_ = slab;
  }
  void push_back(Slab* slab) {
    slab->next = nullptr;
    slab->previous = last_;
    (last_ != nullptr ? last_->next : first_) = slab;
    last_ = slab;
  }
  void remove(Slab* slab) {
    (slab->previous != nullptr ? slab->previous->next : first_) = slab->next;
    (slab->next != nullptr ? slab->next->previous : last_) = slab->previous;
    slab->next = slab->previous = nullptr;
  }
  Slab* pop_front() {
    Slab* slab = first_;
    if (slab != nullptr) remove(slab);
    return slab;
  }

 private:
  Slab* first_ = nullptr;
  Slab* last_ = nullptr;
};

// The map from an address of the first reservation, which is the only one of
// nearly every process, to its slab record. Written once, by the thread that
// makes the reservation, before it hands out a block; all zero until then.
// Other addresses: SuperslabHeap::find.
HAKMEM_HIDDEN extern uintptr_t slab_map_base;
HAKMEM_HIDDEN extern size_t slab_map_units;  // records that may be read, committed or not
HAKMEM_HIDDEN extern Slab* slab_map_records;

}  // namespace hakmem
