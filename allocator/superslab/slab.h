// Slab: one unit of 64 KiB, or a span of several, that holds blocks of one size
// class. Its record stands apart from its blocks, one record a unit.
//
// States, and the verbs that change them:
//
//   free       the unit belongs to no slab                    <- retire
//   current    a thread refills a class from it               <- next_slab
//   available  owned, has free blocks, waits to be current    <- place
//   sleeping   owned, too few free blocks to be worth it      <- place
//   unowned    exhausted when its owner turned away           <- abandon
//   pooled     part-full, left in the shared pool             <- give
//   sampled    holds sampled objects; no thread owns it ever
//   large      one allocation of its own
//
// Invariant, for the owner, after settle():
//   carved == used + blocks on `free`
//   used   == blocks held by the program, in a thread cache, or on `remote`
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/metrics/step_timer.h"
#include "allocator/superslab/block.h"
#include "allocator/superslab/size_class.h"

namespace hakmem {

using SlabState = metrics::SlabState;

// The owner word of a slab: the address of a thread cache, or one of these.
namespace owner {
inline constexpr uintptr_t kFree = 0;
inline constexpr uintptr_t kInterior = 1;  // not the first unit of its span: see Slab::head
inline constexpr uintptr_t kUnowned = 2;
inline constexpr uintptr_t kSampled = 3;
inline constexpr uintptr_t kLarge = 4;
inline constexpr uintptr_t kPooled = 5;  // from here on a free needs no look at the slab's state
inline constexpr uintptr_t kFirstThread = 16;
}  // namespace owner

// Frees by threads that do not own the slab: the newest block and how many,
// packed in one word so that both change together.
struct RemoteList {
  static uint64_t pack(uint32_t block_offset, uint32_t count) {
    return uint64_t{count} << 32 | (block_offset / kBlockAlignment + 1);
  }
  static uint32_t count(uint64_t word) { return static_cast<uint32_t>(word >> 32); }
  // Offset of the newest block in the slab; the list is not empty.
  static size_t offset(uint64_t word) { return (static_cast<uint32_t>(word) - 1) * kBlockAlignment; }
};

struct Superslab;
struct Bin;  // thread_cache/bin.h

struct alignas(64) Slab {
  // -- the line that malloc and free touch; written by the owner ---------------------------------
  std::atomic<uintptr_t> owner;  // claimed by compare-and-swap from kUnowned; else written by the owner or under a lock
  Block* free;                   // blocks that came back from the owner's bin
  uint32_t countdown;            // blocks that may come back until settle() is due
  uint32_t countdown_start;
  uint32_t used;  // as of the last settle()
  uint32_t carved;
  uint32_t size_class;  // metrics::kLargeClass for a large allocation
  SlabState state;
  Bin* bin;    // of the owner, for the class; set by a thread that becomes the owner
  Slab* next;  // in the owner's or the pool's list of slabs
  Slab* previous;

  // -- the line that others touch ---------------------------------------------------------------
  alignas(64) std::atomic<uint64_t> remote;  // RemoteList; any thread pushes, the owner takes all
  uintptr_t start;                           // address of the first block
  size_t requested_bytes;                    // large only
  Superslab* superslab;                      // set once, when the superslab is committed
  uint16_t units;                            // of the span; in its first record
  uint16_t unit;                             // index of this record within its span
  [[no_unique_address]] metrics::CarveTime<kBuild.stats> carve_time;
  bool zeroed;  // held no old content when it was cut: a large allocation need not be cleared

  const ClassShape& shape() const { return kClassShapes[size_class]; }
  uint32_t settled_frees() const { return countdown_start - countdown; }
  uint32_t listed() const { return carved - used; }  // on `free`, after settle()
  Slab* head() { return this - unit; }

  // Takes the frees since the last time into account. Owner only. Returns how many they were.
  uint32_t settle() {
    uint32_t frees = settled_frees();
    used -= frees;
    countdown_start = countdown;
    return frees;
  }

  // Sets after how many frees by the owner its cold path is entered. Owner only, settled.
  void set_countdown(uint32_t frees) { countdown = countdown_start = frees; }

  // Whether a block that was carved starts at `address`, which lies in the slab.
  bool is_block_start(uintptr_t address) {
    uint64_t offset = address - start;
    uint64_t index = offset * shape().reciprocal >> kReciprocalShift;
    // Relaxed: the owner may be carving further.
    return index * shape().block_bytes == offset && index < std::atomic_ref(carved).load(std::memory_order_relaxed);
  }

  bool is_exhausted() const { return free == nullptr && carved == shape().capacity; }

  // Debug builds and tests; owner only.
  bool is_consistent() const;
};
static_assert(sizeof(Slab) == 128);
static_assert(sizeof(Slab) * kUnitsPerSuperslab == kSuperslabMetadataBytes);

// Never reached by frees: the current slab has no threshold.
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
