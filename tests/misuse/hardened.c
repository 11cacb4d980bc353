/* What the hardened build notices beside, or takes away from whoever uses a mistake. */
#include "tests/misuse/misuse.h"

#define HARDENED(name, expected, when) CASE_OF(name, SKIP, NOW, expected, when)

static void* free_it(void* block) {
  free(hide(block));
  return NULL;
}

static void* take_and_free(void* result) {
  *(void**)result = malloc(200);
  free(*(void**)result);
  return NULL;
}

#define WRITTEN(name, bytes)                                             \
  HARDENED(double_free_of_a_written_block_##name, DOUBLE_FREE, NOW) {    \
    void* block = announce(malloc(bytes));                               \
    free(block);                                                         \
    memset(hide(block), 0x41, bytes);                                    \
    free(hide(block));                                                   \
  }                                                                      \
  HARDENED(double_free_of_a_cleared_block_##name, DOUBLE_FREE, NOW) {    \
    void* block = announce(malloc(bytes));                               \
    free(block);                                                         \
    memset(hide(block), 0, bytes);                                       \
    in_thread(free_it, block);                                           \
  }                                                                      \
  HARDENED(realloc_of_a_written_freed_block_##name, DOUBLE_FREE, NOW) {  \
    void* block = announce(malloc(bytes));                               \
    free(block);                                                         \
    memset(hide(block), 0x41, bytes);                                    \
    if (realloc(hide(block), 3 * (bytes)) != NULL) abort();              \
  }                                                                      \
  HARDENED(write_after_free_at_the_end_##name, CORRUPTED, LATER) {       \
    char* block = (char*)announce(malloc(bytes));                        \
    free(block);                                                         \
    ((char*)hide(block))[(bytes)-1] = 1;                                 \
  }                                                                      \
  HARDENED(write_after_free_and_others_##name, CORRUPTED, LATER) {       \
    enum { OTHERS = 200 };                                               \
    void* others[OTHERS];                                                \
    for (int i = 0; i < OTHERS; ++i) others[i] = malloc(bytes);          \
    char* block = (char*)announce(malloc(bytes));                        \
    free(block);                                                         \
    for (int i = 0; i < OTHERS; ++i) free(others[i]);                    \
    ((char*)hide(block))[(bytes) / 2] = 1;                               \
    for (int i = 0; i < 2 * OTHERS; ++i) *(volatile char*)malloc(bytes); \
  }
WRITTEN(16, 16)
WRITTEN(100, 100)
WRITTEN(2k, 2 * KIB)
WRITTEN(20k, 20 * KIB)

HARDENED(double_free_of_a_block_that_a_dead_thread_freed, DOUBLE_FREE, NOW) {
  void* block = NULL;
  in_thread(take_and_free, &block);
  memset(hide(block), 0, 200);
  free(announce(block));
}

/* A run of writes ends at the end of the slab, or of the large allocation. */
HARDENED(overflow_out_of_a_slab, FAULT, NOW) { memset(hide(malloc(100)), 0x41, 64 * KIB); }
HARDENED(overflow_out_of_a_slab_of_large_blocks, FAULT, NOW) { memset(hide(malloc(20 * KIB)), 0x41, 448 * KIB); }
HARDENED(overflow_out_of_a_large_allocation, FAULT, NOW) { memset(hide(malloc(500 * KIB)), 0x41, 512 * KIB + 1); }
HARDENED(overflow_out_of_a_large_allocation_that_grew, FAULT, NOW) {
  memset(hide(realloc(malloc(500 * KIB), 700 * KIB)), 0x41, 1 * MIB);
}

/* Nothing is wrong in these; they abort where a promise is not kept. */
static int is_zero(const char* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (bytes[i] != 0) return 0;
  return 1;
}

HARDENED(content_is_gone_after_free, NOTHING, NOW) {
  const size_t sizes[] = {16, 64, 100, 500, 2 * KIB, 20 * KIB, 100 * KIB, 500 * KIB, 5 * MIB};
  for (int i = 0; i < 9; ++i) {
    char* block = (char*)malloc(sizes[i]);
    memset(block, 0x53, sizes[i]);
    free(block);
    /* The first word says that the block is free. */
    if (!is_zero((char*)hide(block) + 8, sizes[i] - 8)) abort();
  }
}

HARDENED(content_is_gone_after_realloc, NOTHING, NOW) {
  char* block = (char*)malloc(3000);
  memset(block, 0x53, 3000);
  char* moved = (char*)realloc(block, 30 * KIB);
  if (moved == hide(block) || !is_zero((char*)hide(block) + 8, 2992)) abort();
  free(moved);
}

HARDENED(blocks_are_clear_when_they_are_handed_out, NOTHING, NOW) {
  enum { COUNT = 20000 };
  static char* blocks[COUNT];
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < COUNT; ++i) {
      size_t bytes = (size_t)(16 + 16 * (i * 7 % 40 + round));
      blocks[i] = (char*)malloc(bytes);
      if (!is_zero(blocks[i], bytes)) abort();
      memset(blocks[i], 0x53, bytes);
    }
    for (int i = 0; i < COUNT; ++i) free(blocks[i]);
  }
}

HARDENED(reuse_is_delayed, NOTHING, NOW) {
  void* block = malloc(64);
  free(block);
  for (int i = 0; i < 30; ++i) {
    void* other = malloc(64);
    if (other == hide(block)) abort();
    free(other);
  }
}

/* Of 1,000 pairs of blocks that come one after the other, few stand so. */
HARDENED(addresses_are_in_no_order, NOTHING, NOW) {
  int neighbours = 0;
  char* before = (char*)malloc(48);
  for (int i = 0; i < 1000; ++i) {
    char* block = (char*)malloc(48);
    neighbours += block - before == 48;
    before = block;
  }
  if (neighbours > 200) abort();
}

int main(int argc, char** argv) { return misuse_main(argc, argv); }
