/* Use after free, and writes that reach what the allocator relies on. */
#include <malloc.h>

#include "tests/misuse/misuse.h"

#define FREED(name, bytes)                                  \
  CASE(realloc_freed_##name, DOUBLE_FREE, NOW) {            \
    void* block = announce(malloc(bytes));                  \
    free(block);                                            \
    if (realloc(hide(block), bytes) != NULL) abort();       \
  }                                                         \
  CASE(realloc_freed_larger_##name, DOUBLE_FREE, NOW) {     \
    void* block = announce(malloc(bytes));                  \
    free(block);                                            \
    if (realloc(hide(block), 3 * (bytes)) != NULL) abort(); \
  }                                                         \
  CASE(realloc_freed_to_zero_##name, DOUBLE_FREE, NOW) {    \
    void* block = announce(malloc(bytes));                  \
    free(block);                                            \
    if (realloc(hide(block), 0) != NULL) abort();           \
  }                                                         \
  CASE(usable_size_freed_##name, DOUBLE_FREE, NOW) {        \
    void* block = announce(malloc(bytes));                  \
    free(block);                                            \
    if (malloc_usable_size(hide(block)) != 0) abort();      \
  }
FREED(100, 100)
FREED(2k, 2 * KIB)
FREED(20k, 20 * KIB)
FREED(100k, 100 * KIB)
FREED(500k, 500 * KIB)
FREED(5m, 5 * MIB)

/* A write through a stale pointer is noticed when the block is handed out. */
#define WRITTEN(name, bytes, allocate_again) \
  CASE_WRITTEN(write_after_free_##name) {    \
    void* block = announce(malloc(bytes));   \
    free(block);                             \
    memset(hide(block), 0x41, 8);            \
    void* again = allocate_again;            \
    if (again == hide(block)) abort();       \
  }
static void* aligned(size_t bytes) {
  void* block = NULL;
  return posix_memalign(&block, 16, bytes) == 0 ? block : NULL;
}
WRITTEN(16, 16, malloc(16))
WRITTEN(100, 100, malloc(100))
WRITTEN(2k, 2 * KIB, malloc(2 * KIB))
WRITTEN(20k, 20 * KIB, malloc(20 * KIB))
WRITTEN(100k, 100 * KIB, malloc(100 * KIB))
WRITTEN(then_calloc, 100, calloc(1, 100))
WRITTEN(then_calloc_2k, 2 * KIB, calloc(1, 2 * KIB))
WRITTEN(then_realloc, 100, realloc(NULL, 100))
WRITTEN(then_aligned, 96, aligned(96))
WRITTEN(then_memalign, 2 * KIB, memalign(64, 2 * KIB))

CASE_WRITTEN(write_after_free_one_byte) {
  char* block = (char*)announce(malloc(64));
  free(block);
  *(char*)hide(block) ^= 1;
  free(malloc(64));
}

CASE_WRITTEN(write_after_free_then_realloc_grows_into_it) {
  void* small = malloc(16);
  void* block = announce(malloc(64));
  free(block);
  memset(hide(block), 0, 64);
  free(realloc(small, 64));
}

/* Blocks that have left the thread's cache carry their mark as well, as long as one of their slab is live. */
CASE_WRITTEN(write_after_free_after_others) {
  enum { COUNT = 4000 };
  static char* blocks[COUNT];
  for (int i = 0; i < COUNT; ++i) blocks[i] = (char*)malloc(64);
  for (int i = 0; i < COUNT; ++i)
    if (i % 64 != 1) free(blocks[i]);
  memset(announce(blocks[0]), 0, 64);
  for (int i = 0; i < 2 * COUNT; ++i) *(volatile char*)malloc(64) = 0;
}

static void* write_zero(void* block) {
  memset(hide(block), 0, 8);
  return NULL;
}
CASE_WRITTEN(write_after_free_by_another_thread) {
  void* block = announce(malloc(200));
  free(block);
  in_thread(write_zero, block);
  free(malloc(200));
}

/* Out of a block, into one that is free. */
CASE_WRITTEN(overflow_into_the_next_block) {
  enum { COUNT = 512 }; /* neighbours are among them, in whatever order they come */
  char* blocks[COUNT];
  for (int i = 0; i < COUNT; ++i) blocks[i] = (char*)malloc(48);
  for (int i = 0; i < COUNT; ++i)
    for (int k = 0; k < COUNT; ++k) {
      if (blocks[k] != blocks[i] + 48) continue;
      free(announce(blocks[k]));
      char* block = (char*)hide(blocks[i]);
      memset(block, 0x41, 48);
      block[48] ^= 1; /* one in 256 keys begins with any given byte */
      free(malloc(48));
      return;
    }
  exit(0);
}

/* Not where blocks come in no order. */
CASE_OF(overflow_into_fresh_memory, CORRUPTED, LATER, SKIP, NOW) {
  char* first = (char*)malloc(1000);
  char* second = (char*)malloc(1000);
  announce(second + (second - first));
  memset(hide(second), 0x41, (size_t)(second - first) + 8);
  for (int i = 0; i < 3; ++i) free(malloc(1000)), *(volatile char*)malloc(1000) = 0;
}

CASE_WRITTEN(underflow_into_the_block_before) {
  enum { COUNT = 512 };
  char* blocks[COUNT];
  for (int i = 0; i < COUNT; ++i) blocks[i] = (char*)malloc(16);
  for (int i = 0; i < COUNT; ++i)
    for (int k = 0; k < COUNT; ++k) {
      if (blocks[k] + 16 != blocks[i]) continue;
      free(announce(blocks[k]));
      memset((char*)hide(blocks[i]) - 16, 0x41, 16);
      free(malloc(16));
      return;
    }
  exit(0);
}

/* Blocks that others freed wait on a list through them, in the slab of their
 * owner: `owner` takes it back after the links were written over. */
enum { LISTED = 6000 };
static char* listed[LISTED];

static void* free_all_listed(void* unused) {
  (void)unused;
  for (int i = 0; i < LISTED; ++i) free(listed[i]);
  return NULL;
}

/* By exclusive or: a byte that is set decodes, one time in 64, to the link of another block. */
#define LINKS(name, first, bytes)                                                            \
  CASE(list_link_##name, CORRUPTED, LATER) {                                                 \
    for (int i = 0; i < LISTED; ++i) listed[i] = (char*)malloc(64);                          \
    in_thread(free_all_listed, NULL);                                                        \
    for (int i = 0; i < LISTED; ++i)                                                         \
      for (int k = (first); k < (first) + (bytes); ++k) ((char*)hide(listed[i]))[k] ^= 0x41; \
    for (int i = 0; i < 2 * LISTED; ++i) *(volatile char*)malloc(64) = 0;                    \
  }
LINKS(overwritten, 8, 8)
LINKS(overwritten_from_the_start, 0, 16)
LINKS(low_byte, 8, 1)

int main(int argc, char** argv) { return misuse_main(argc, argv); }
