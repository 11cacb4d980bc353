/* Frees that are told a wrong size or alignment. */
#include <malloc.h>

#include "tests/misuse/misuse.h"

#define SIZED(name, bytes, wrong) \
  CASE(free_sized_##name, SIZE, NOW) { call_free_sized(announce(malloc(bytes)), wrong); }
SIZED(too_large, 100, 200)
SIZED(too_small, 100, 30)
SIZED(far_too_large, 100, 5 * MIB)
SIZED(zero, 100, 0)
SIZED(too_large_2k, 2 * KIB, 4 * KIB)
SIZED(too_small_20k, 20 * KIB, 5 * KIB)
SIZED(too_large_100k, 100 * KIB, 200 * KIB)
SIZED(too_small_500k, 500 * KIB, 100)
SIZED(too_large_500k, 500 * KIB, 900 * KIB)
SIZED(too_small_5m, 5 * MIB, 100 * KIB)
SIZED(too_large_5m, 5 * MIB, 6 * MIB)

CASE(free_aligned_sized_too_large, SIZE, NOW) { call_free_aligned_sized(announce(aligned_alloc(64, 128)), 64, 512); }
CASE(free_aligned_sized_too_small, SIZE, NOW) { call_free_aligned_sized(announce(aligned_alloc(64, 1024)), 64, 64); }
CASE(free_aligned_sized_wrong_alignment, SIZE, NOW) {
  void* block;
  do block = aligned_alloc(64, 64);
  while ((uintptr_t)block % 4096 == 0); /* which would be as asked */
  call_free_aligned_sized(announce(block), 4096, 64);
}
CASE(free_aligned_sized_alignment_of_3, SIZE, NOW) { call_free_aligned_sized(announce(aligned_alloc(64, 64)), 3, 64); }

/* As the standard has it: with the size that was asked for, of whatever function. */
CASE(right_sizes, NOTHING, NOW) {
  for (size_t bytes = 0; bytes < 3 * MIB; bytes += 1 + bytes / 7) {
    call_free_sized(malloc(bytes), bytes);
    call_free_sized(calloc(1, bytes), bytes);
    if (bytes > 0) call_free_sized(realloc(malloc(bytes / 2), bytes), bytes);
    if (bytes > 0) call_free_sized(realloc(malloc(2 * bytes), bytes), bytes);
    for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 4)
      call_free_aligned_sized(aligned_alloc(alignment, bytes), alignment, bytes);
    call_free_sized(malloc(bytes), malloc_usable_size(hide(NULL)) + bytes);
  }
  call_free_sized(NULL, 10);
  call_free_aligned_sized(NULL, 64, 10);
}

int main(int argc, char** argv) { return misuse_main(argc, argv); }
