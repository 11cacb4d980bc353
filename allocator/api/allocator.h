// What the exported names are made of: the functions of the malloc family under
// names of our own, so that tests can link them beside another malloc.
//
// Every function may be called by any thread at any time: before constructors,
// after destructors, and while other threads end. Failure is null with errno
// set; success and every free keep errno.
#pragma once

#include <errno.h>

#include <cstddef>
#include <cstdint>

#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {

// Cold sides of the functions below.
HAKMEM_COLD void* refuse(int error);  // null, with errno set
[[gnu::noinline]] void* allocate_zeroed_slow(size_t bytes);
[[gnu::noinline]] void* allocate_aligned_slow(size_t alignment, size_t bytes);
HAKMEM_COLD void* allocate_aligned_after(const Block* corrupted, size_t alignment, size_t bytes);
[[gnu::noinline]] void* reallocate_slow(void* address, size_t bytes);
[[gnu::noinline]] void* move_block(void* address, size_t bytes, size_t old_bytes, Slab* slab);
HAKMEM_COLD void* move_suspect(void* address, size_t bytes, size_t old_bytes, Slab* slab);
HAKMEM_COLD void* refuse_misuse(Message message, const void* address);  // null, with EINVAL, after the message

// Blocks are aligned to 16 bytes and multiples of it, so whole chunks of them may be written.
using Chunk = uint64_t __attribute__((vector_size(kBlockAlignment), may_alias));

// Sizes that have a class each, and that are cleared without a call.
inline constexpr size_t kMaxClearedBytes = kLinearClasses * kBlockAlignment;

// Clears 16 to 256 bytes, a multiple of 16. From both ends, so that few branches
// tell how many: the stores overlap where they are fewer.
HAKMEM_INLINE void clear_small(void* block, size_t bytes) {
  constexpr Chunk kZero{};
  auto* first = static_cast<Chunk*>(block);
  auto* end = reinterpret_cast<Chunk*>(static_cast<char*>(block) + bytes);
  first[0] = end[-1] = kZero;
  if (bytes <= 32) return;
  first[1] = end[-2] = kZero;
  if (bytes <= 64) return;
  first[2] = first[3] = end[-3] = end[-4] = kZero;
  if (bytes <= 128) return;
  first[4] = first[5] = first[6] = first[7] = end[-5] = end[-6] = end[-7] = end[-8] = kZero;
}

// calloc(3).
HAKMEM_INLINE void* allocate_zeroed(size_t count, size_t bytes) {
  size_t total = 0;
  if (__builtin_mul_overflow(count, bytes, &total)) [[unlikely]]
    return refuse(ENOMEM);
  if (total > kMaxClearedBytes) [[unlikely]]
    return allocate_zeroed_slow(total);
  ThreadCache* cache = thread_state.cache;
  uint64_t bin = cache->bin_table[(total + 15) / 16];
  Block* block = take_from(cache, bin);
  if (block == nullptr) [[unlikely]]
    return allocate_zeroed_slow(total);
  if (!take_mark(block)) [[unlikely]]
    return allocate_after<allocate_zeroed_slow>(block, total);
  if constexpr (has(Mitigation::kZeroOnFree)) return block;  // it was found to be clear
  // The whole block: its size follows from the bin, also that of 0 bytes.
  static_assert(kBlockAlignment % kBinWords == 0);
  clear_small(block, kBlockAlignment + bin * (kBlockAlignment / kBinWords));
  return block;
}

// Whether realloc leaves a block where it is: about half of it has to be used.
// Eight bytes less, so that a block of the smallest class, which has no smaller
// one to move to, is kept for all but 0. Below zero, which is a very large
// difference, the block is too small.
constexpr bool is_kept(size_t usable, size_t bytes) { return usable - bytes < usable / 2 + 8; }

// realloc(3), as glibc has it: of null it allocates, to 0 it frees and returns null.
HAKMEM_INLINE void* reallocate(void* address, size_t bytes) {
  if constexpr (has(Mitigation::kBlockStates)) return reallocate_slow(address, bytes);
  size_t unit = (reinterpret_cast<uintptr_t>(address) - slab_map_base) >> kUnitShift;
  if (unit >= slab_map_units) [[unlikely]]
    return reallocate_slow(address, bytes);
  Slab* slab = slab_map_records + unit;
  if (slab->owner.load(std::memory_order_relaxed) < owner::kFirstThread) [[unlikely]]
    return reallocate_slow(address, bytes);
  size_t usable = slab->shape().block_bytes;
  if (!is_kept(usable, bytes)) return move_block(address, bytes, usable, slab);
  if (static_cast<Block*>(address)->looks_free()) [[unlikely]]
    return move_suspect(address, bytes, usable, slab);
  if (!slab->is_block_start(reinterpret_cast<uintptr_t>(address))) [[unlikely]]
    return refuse_misuse(Message::kInvalidPointer, address);
  return address;
}

// The part of allocate_aligned() that needs no call, before the free key is taken;
// null when that does not do.
HAKMEM_INLINE Block* take_aligned(size_t alignment, size_t bytes) {
  // The last byte of what aligned_class_of() rounds up to; all ones for 0 bytes.
  size_t last = (bytes - 1) | (alignment - 1);
  if (last >= kMaxTableBytes) [[unlikely]]
    return nullptr;
  ThreadCache* cache = thread_state.cache;
  return take_from(cache, cache->bin_table[last / 16 + 1]);
}

// Memory aligned to `alignment`, a power of two.
HAKMEM_INLINE void* allocate_aligned(size_t alignment, size_t bytes) {
  Block* block = take_aligned(alignment, bytes);
  if (block == nullptr) [[unlikely]]
    return allocate_aligned_slow(alignment, bytes);
  if (!take_mark(block)) [[unlikely]]
    return allocate_aligned_after(block, alignment, bytes);
  return block;
}

// malloc_usable_size(3): 0 for null. Any other pointer than that of a live block is a misuse, and 0.
size_t usable_bytes(const void* address);

// Whether a block of a slab that has a class can have been allocated with `bytes`: it has the size of
// its class, which rounds up, and realloc() leaves it where it is while about half of it is used.
inline bool is_size_of(const Slab* slab, size_t bytes) {
  size_t usable = slab->shape().block_bytes;
  return bytes <= usable && is_kept(usable, bytes == 0 ? 1 : bytes);
}

// For free_sized() and its relatives: that a live block cannot have been allocated with
// this size and alignment, by whatever function, is a misuse. False where there is no
// live block.
bool check_size(const void* address, size_t alignment, size_t bytes);

// The same where the size is not told.
bool check_alignment(const void* address, size_t alignment);

// Whether each operator delete that is told a size and no alignment does that, which costs more than the free.
inline constexpr bool kChecksDeletes = kBuild.assertions || has(Mitigation::kBlockStates);

// Gives all free memory back to the kernel; returns the bytes.
size_t purge_all();

// Figures of the whole heap, computed from slab state when asked.
struct HeapTotals {
  size_t superslab_bytes;  // committed
  size_t used_bytes;       // live objects, large and huge; thread caches are not in use
  size_t free_bytes;       // committed superslab bytes that are not handed out
  size_t retained_bytes;   // of those: whole units that still hold pages
  size_t slabs;
  size_t free_blocks;  // in slabs and thread caches
  size_t huge_allocations;
  size_t huge_bytes;
};
HeapTotals heap_totals();

}  // namespace hakmem
