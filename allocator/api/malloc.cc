// The malloc family under its C names.
#include <errno.h>
#include <stdlib.h>

#include <bit>

#include "allocator/api/allocator.h"
#include "allocator/api/hakmem.h"
#include "allocator/base/bits.h"

#define HAKMEM_EXPORT extern "C" [[gnu::visibility("default")]]

HAKMEM_EXPORT void* malloc(size_t bytes) { return hakmem::allocate(bytes); }

HAKMEM_EXPORT void free(void* address) { hakmem::free(address); }

HAKMEM_EXPORT void* calloc(size_t count, size_t bytes) { return hakmem::allocate_zeroed(count, bytes); }

HAKMEM_EXPORT void* realloc(void* address, size_t bytes) { return hakmem::reallocate(address, bytes); }

HAKMEM_EXPORT void* reallocarray(void* address, size_t count, size_t bytes) {
  size_t total = 0;
  if (__builtin_mul_overflow(count, bytes, &total)) [[unlikely]]
    return hakmem::refuse(ENOMEM);
  return hakmem::reallocate(address, total);
}

[[gnu::noinline]] static int posix_memalign_slow(void** result, size_t alignment, size_t bytes) {
  int saved_errno = errno;
  void* address = hakmem::allocate_aligned_slow(alignment, bytes);
  errno = saved_errno;
  if (address == nullptr) return ENOMEM;
  *result = address;
  return 0;
}

HAKMEM_COLD static int posix_memalign_after(const hakmem::Block* corrupted, void** result, size_t alignment,
                                            size_t bytes) {
  hakmem::report_misuse(hakmem::Message::kCorruptedFreeList, corrupted);
  return posix_memalign_slow(result, alignment, bytes);
}

HAKMEM_EXPORT int posix_memalign(void** result, size_t alignment, size_t bytes) {
  if (!hakmem::is_power_of_two(alignment) || alignment % sizeof(void*) != 0) [[unlikely]]
    return EINVAL;
  hakmem::Block* block = hakmem::take_aligned(alignment, bytes);
  if (block == nullptr) [[unlikely]]
    return posix_memalign_slow(result, alignment, bytes);
  if (!hakmem::take_mark(block)) [[unlikely]]
    return posix_memalign_after(block, result, alignment, bytes);
  *result = block;
  return 0;
}

HAKMEM_EXPORT void* aligned_alloc(size_t alignment, size_t bytes) {
  if (!hakmem::is_power_of_two(alignment)) [[unlikely]]
    return hakmem::refuse(EINVAL);
  return hakmem::allocate_aligned(alignment, bytes);
}

// Rounds a wrong alignment up, as glibc does; too large a one is EINVAL.
HAKMEM_EXPORT void* memalign(size_t alignment, size_t bytes) {
  if (alignment > PTRDIFF_MAX) [[unlikely]]
    return hakmem::refuse(EINVAL);
  return hakmem::allocate_aligned(std::bit_ceil(alignment), bytes);
}

HAKMEM_EXPORT void* valloc(size_t bytes) { return hakmem::allocate_aligned(hakmem::kPageBytes, bytes); }

HAKMEM_EXPORT void* pvalloc(size_t bytes) {
  if (bytes > PTRDIFF_MAX) return hakmem::refuse(ENOMEM);
  size_t rounded = bytes == 0 ? hakmem::kPageBytes : hakmem::align_up(bytes, hakmem::kPageBytes);
  return hakmem::allocate_aligned(hakmem::kPageBytes, rounded);
}

HAKMEM_EXPORT size_t malloc_usable_size(void* address) { return hakmem::usable_bytes(address); }

// A wrong size is a misuse, and the block is freed.
HAKMEM_EXPORT void free_sized(void* address, size_t bytes) {
  if (hakmem::check_size(address, 1, bytes == 0 ? 1 : bytes)) hakmem::free(address);
}

HAKMEM_EXPORT void free_aligned_sized(void* address, size_t alignment, size_t bytes) {
  if (hakmem::check_size(address, alignment, bytes == 0 ? 1 : bytes)) hakmem::free(address);
}
