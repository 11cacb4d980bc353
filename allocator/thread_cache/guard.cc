#include "allocator/thread_cache/guard.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "allocator/base/lock.h"
#include "allocator/superslab/size_class.h"
#include "allocator/thread_cache/sampling.h"

namespace hakmem {

constinit GuardPool guard_pool{};

namespace {

using metrics::MemoryError;

constexpr size_t kPoolBytes = (2 * kGuardSlots + 1) * kPageBytes;
constexpr size_t kRecordBytes = align_up(sizeof(GuardSlot) * kGuardSlots, kPageBytes);
// What stands on a page beside its block.
constexpr unsigned char kPattern = 0xd6;

bool permit(uintptr_t page, int access) { return mprotect(reinterpret_cast<void*>(page), kPageBytes, access) == 0; }

bool make_pool() {
  void* mapping =
      mmap(nullptr, kRecordBytes + kPoolBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return false;
  if (mprotect(mapping, kRecordBytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping, kRecordBytes + kPoolBytes);
    return false;
  }
  guard_pool.slots = static_cast<GuardSlot*>(mapping);
  guard_pool.base = reinterpret_cast<uintptr_t>(mapping) + kRecordBytes;
  install_fault_handler();
  guard_pool.bytes.store(kPoolBytes, std::memory_order_release);
  return true;
}

// The slot that the page of an address belongs to.
GuardSlot& slot_near(uintptr_t address) {
  return guard_pool.slots[(address - guard_pool.base) / kPageBytes / 2 % kGuardSlots];
}

// The slot whose block starts at this address.
GuardSlot* slot_of(uintptr_t address) {
  GuardSlot& slot = slot_near(address);
  return slot.state != GuardSlot::State::kUnused && slot.address == address ? &slot : nullptr;
}

// The nearest byte beside the block that was written to; 0 when there is none.
uintptr_t find_damage(const GuardSlot& slot) {
  uintptr_t page = slot.address & ~(kPageBytes - 1);
  for (uintptr_t byte = slot.address + slot.bytes; byte < page + kPageBytes; ++byte)
    if (*reinterpret_cast<const unsigned char*>(byte) != kPattern) return byte;
  for (uintptr_t byte = slot.address; byte-- > page;)
    if (*reinterpret_cast<const unsigned char*>(byte) != kPattern) return byte;
  return 0;
}

// Asked without the lock, before a stack is taken in vain.
__attribute__((no_sanitize("thread"))) bool has_no_slot() {
  return guard_pool.used_slots == kGuardSlots && guard_pool.freed == 0;
}

// A slot to use; kGuardSlots when all are in use.
size_t take_slot() {
  GuardPool& pool = guard_pool;
  if (pool.used_slots < kGuardSlots) return pool.used_slots++;
  if (pool.freed == 0) return kGuardSlots;
  size_t slot = pool.ring[pool.first_freed];
  pool.first_freed = (pool.first_freed + 1) % kGuardSlots;
  --pool.freed;
  return slot;
}

void give_slot(size_t slot) {
  GuardPool& pool = guard_pool;
  pool.ring[(pool.first_freed + pool.freed++) % kGuardSlots] = static_cast<uint16_t>(slot);
}

// Opens the slot's page, and closes again what a report has opened beside it.
bool open_page(size_t index) {
  uintptr_t page = guard_pool.page_of(index);
  if (!permit(page, PROT_READ | PROT_WRITE)) return false;  // no more mappings
  if (guard_pool.slots[index].was_reported.exchange(false, std::memory_order_relaxed)) {
    permit(page - kPageBytes, PROT_NONE);
    permit(page + kPageBytes, PROT_NONE);
  }
  memset(reinterpret_cast<void*>(page), kPattern, kPageBytes);
  return true;
}

void* place_guarded(size_t bytes, uint32_t size_class, const GuardStack& stack, RandomGenerator& random) {
  LockGuard guard(sampled_slabs.lock);
  if (!guard_pool.exists() && !make_pool()) {
    metrics::guards_samples.store(false, std::memory_order_relaxed);
    return nullptr;
  }
  size_t index = take_slot();
  if (index == kGuardSlots) return nullptr;
  if (!open_page(index)) {
    give_slot(index);
    return nullptr;
  }
  GuardSlot& slot = guard_pool.slots[index];
  slot.size_class = static_cast<uint8_t>(size_class);
  slot.bytes = bytes;
  // Close to the page's end, or at its start. Who asks for more alignment asks for a whole block of a class.
  bool is_at_end = random.next() >> 63 == 0;
  size_t room = bytes == 0 ? kBlockAlignment : align_up(bytes, kBlockAlignment);
  slot.address = guard_pool.page_of(index) + (is_at_end ? kPageBytes - room : 0);
  slot.allocation = stack;
  slot.free.thread = 0;
  slot.state = GuardSlot::State::kLive;
  return reinterpret_cast<void*>(slot.address);
}

// Frees a live block. Not one beside which something was written, at `damage`, unless
// it `may_be_damaged`. False when it was not live.
bool retire(GuardSlot* slot, const GuardStack& stack, bool may_be_damaged, uintptr_t* damage) {
  LockGuard guard(sampled_slabs.lock);
  if (slot->state != GuardSlot::State::kLive) return false;
  *damage = may_be_damaged ? 0 : find_damage(*slot);
  if (*damage != 0) return true;
  thread_state.cache->exact.count_free(slot->size_class);
  report_sample_free(reinterpret_cast<const void*>(slot->address));
  slot->free = stack;
  slot->state = GuardSlot::State::kFreed;
  auto index = static_cast<size_t>(slot - guard_pool.slots);
  permit(guard_pool.page_of(index), PROT_NONE);
  give_slot(index);
  return true;
}

}  // namespace

void* allocate_guarded(size_t bytes, uint32_t size_class, RandomGenerator& random) {
  if (kClassShapes[size_class].block_bytes > kPageBytes || has_no_slot()) return nullptr;
  int saved_errno = errno;
  GuardStack stack;
  take_stack(&stack);
  void* block = place_guarded(bytes, size_class, stack, random);
  errno = saved_errno;
  return block;
}

void free_guarded(void* address) {
  int saved_errno = errno;
  auto start = reinterpret_cast<uintptr_t>(address);
  GuardStack stack;
  take_stack(&stack);
  GuardSlot* slot = slot_of(start);
  if (slot == nullptr)
    return report_at_call({MemoryError::InvalidFree, "free of", start, "freed", 0}, slot_near(start));
  uintptr_t damage = 0;
  if (!retire(slot, stack, false, &damage))
    return report_at_call({MemoryError::DoubleFree, "free of", start, "freed again", 0}, *slot);
  if (damage != 0) {
    // The page is still open, so that a core dump shows what there is.
    auto kind = damage < start ? MemoryError::Underflow : MemoryError::Overflow;
    report_at_call({kind, "found at the free, a write at", damage, "found", 0}, *slot);
    retire(slot, stack, true, &damage);
  }
  errno = saved_errno;
}

size_t guarded_bytes(const void* address, const char* what) {
  auto start = reinterpret_cast<uintptr_t>(address);
  const GuardSlot* slot = slot_of(start);
  if (slot == nullptr) {
    report_at_call({MemoryError::InvalidFree, what, start, "used", 0}, slot_near(start));
    return kNotLive;
  }
  if (slot->state == GuardSlot::State::kLive) return slot->bytes;
  report_at_call({MemoryError::UseAfterFree, what, start, "used", 0}, *slot);
  return kNotLive;
}

}  // namespace hakmem
