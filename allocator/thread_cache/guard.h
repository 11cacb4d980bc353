// Guarded samples, with HAKMEM_GUARD=1: a sampled block stands alone on a page
// between pages without access. A write or read beyond it faults at once where
// the page ends, and is found at its free where the page goes on; after the free
// the page has no access either, until it is used again as late as can be. Faults
// in the pool become a report (guard_report.cc).
//
// Only builds with statistics have it. Before metrics::guards_samples is first set
// there is no pool, and no handler of signals.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/bits.h"
#include "allocator/metrics/catalogue.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/platform/random.h"

namespace hakmem {

inline constexpr size_t kGuardSlots = 256;
inline constexpr size_t kGuardFrames = 24;

struct GuardStack {
  uint32_t thread;  // its id; 0: there is no stack
  uint32_t count;
  uintptr_t frames[kGuardFrames];  // return addresses, innermost first
};

struct GuardSlot {
  enum class State : uint8_t {
    kUnused,
    kLive,
    kFreed,  // no access; waits to be used again
  };
  State state;
  std::atomic<bool> was_reported;  // a fault at this block: pages at it are open for good
  uint8_t size_class;
  size_t bytes;  // requested
  uintptr_t address;
  GuardStack allocation;
  GuardStack free;
};

// One mapping: records, then pages by turns without access and with a block. Slots
// are written under the lock of sampled_slabs, and read by the handler without it.
struct GuardPool {
  std::atomic<size_t> bytes;  // 0: there is no pool; written last, and once
  uintptr_t base;             // the first page without access
  GuardSlot* slots;
  uint32_t used_slots;   // that were ever used
  uint32_t first_freed;  // of the ring of freed slots, oldest first
  uint32_t freed;
  uint16_t ring[kGuardSlots];

  bool exists() const { return bytes.load(std::memory_order_acquire) != 0; }
  bool contains(uintptr_t address) const { return address - base < bytes.load(std::memory_order_acquire); }
  uintptr_t page_of(size_t slot) const { return base + (2 * slot + 1) * kPageBytes; }
};
extern GuardPool guard_pool;

// Whether the address is in the pool.
inline bool is_guarded(const void* address) {
  if constexpr (!kBuild.stats) return false;
  return guard_pool.contains(reinterpret_cast<uintptr_t>(address));
}

// A guarded block for a request of the class; null when there is no slot, or when it is
// more than a page. The first call makes the pool and installs the handler; where there
// is no memory for it no sample is guarded any more. Caller holds no lock of the allocator.
HAKMEM_COLD void* allocate_guarded(size_t bytes, uint32_t size_class, RandomGenerator& random);

// An address of the pool: the free of a block, or a report.
HAKMEM_COLD void free_guarded(void* address);

// Requested bytes of a live block, which are all that may be used of it. Another address
// of the pool is reported as `what` was done to it ("realloc of"): kNotLive.
inline constexpr size_t kNotLive = SIZE_MAX;
HAKMEM_COLD size_t guarded_bytes(const void* address, const char* what);

// -- guard_report.cc -------------------------------------------------------------------------------------------------

// Takes SIGSEGV and passes on what is not ours.
void install_fault_handler();

void take_stack(GuardStack* stack);

// What the program did wrong.
struct GuardError {
  metrics::MemoryError kind;
  const char* what;  // "write at"
  uintptr_t address;
  const char* title;  // of the stack of now: "written"
  uintptr_t code;     // the instruction that did it; 0: a call of hakmem
};

// Prints what was done, where, with the stacks of now and of the block's life, and counts
// it. Does not return unless HAKMEM_ON_ERROR=report.
void report_at_call(const GuardError& error, const GuardSlot& slot);

}  // namespace hakmem
