/* Second frees: at once, later, by others, and of whatever the block has become. */
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/wait.h>

#include "tests/misuse/misuse.h"

static void* free_it(void* block) {
  free(hide(block));
  return NULL;
}

static void* take_and_free(void* bytes) {
  void* block = announce(malloc((size_t)bytes));
  free(block);
  return block;
}

static void* take(void* bytes) {
  *(void**)bytes = malloc(*(size_t*)bytes);
  return NULL;
}

/* Frees `count` other blocks of the size in between. */
static void free_twice_with_others(size_t bytes, int count) {
  void** others = (void**)calloc((size_t)count, sizeof(void*));
  for (int i = 0; i < count / 2; ++i) others[i] = malloc(bytes);
  void* block = announce(malloc(bytes));
  for (int i = count / 2; i < count; ++i) others[i] = malloc(bytes);
  free(block);
  for (int i = 0; i < count; ++i) free(others[i]);
  free(hide(block));
}

#define OF_SIZE(name, bytes, when_moved)                        \
  CASE(double_free_##name, DOUBLE_FREE, NOW) {                  \
    void* block = announce(malloc(bytes));                      \
    free(block);                                                \
    free(hide(block));                                          \
  }                                                             \
  CASE(double_free_after_others_##name, DOUBLE_FREE, NOW) {     \
    free_twice_with_others(bytes, (bytes) > 64 * KIB ? 6 : 40); \
  }                                                             \
  CASE(double_free_own_then_thread_##name, DOUBLE_FREE, NOW) {  \
    void* block = announce(malloc(bytes));                      \
    free(block);                                                \
    in_thread(free_it, block);                                  \
  }                                                             \
  CASE(double_free_thread_then_own_##name, DOUBLE_FREE, NOW) {  \
    void* block = announce(malloc(bytes));                      \
    in_thread(free_it, block);                                  \
    free(hide(block));                                          \
  }                                                             \
  CASE(double_free_of_dead_threads_##name, DOUBLE_FREE, NOW) {  \
    union {                                                     \
      size_t size;                                              \
      void* block;                                              \
    } passed = {bytes};                                         \
    in_thread(take, &passed);                                   \
    void* block = announce(passed.block);                       \
    free(block);                                                \
    free(hide(block));                                          \
  }                                                             \
  CASE(double_free_realloc_old_##name, when_moved, NOW) {       \
    void* block = announce(malloc(bytes));                      \
    void* behind = malloc(bytes);                               \
    void* moved = realloc(block, (bytes)*3);                    \
    if (moved == hide(block)) _exit(0);                         \
    free(hide(block));                                          \
    free(behind);                                               \
  }
OF_SIZE(16, 16, DOUBLE_FREE)
OF_SIZE(100, 100, DOUBLE_FREE)
OF_SIZE(2k, 2 * KIB, DOUBLE_FREE)
OF_SIZE(20k, 20 * KIB, DOUBLE_FREE)
OF_SIZE(100k, 100 * KIB, DOUBLE_FREE)
OF_SIZE(500k, 500 * KIB, DOUBLE_FREE)
/* realloc() has given the addresses back to the kernel. */
OF_SIZE(5m, 5 * MIB, FOREIGN)

CASE(double_free_after_2000_others, DOUBLE_FREE, NOW) { free_twice_with_others(64, 2000); }
CASE(double_free_after_20000_others, DOUBLE_FREE, NOW) { free_twice_with_others(64, 20000); }

CASE(double_free_interleaved, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  void* other = malloc(48);
  free(block);
  free(other);
  free(hide(block));
}

CASE(double_free_after_neighbours_reuse, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  void* neighbour = malloc(48);
  free(block);
  free(neighbour);
  neighbour = malloc(48);
  memset(neighbour, 1, 48);
  free(hide(block));
}

CASE(double_free_after_other_sizes, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  free(block);
  for (size_t bytes = 64; bytes < 4000; bytes += 16) free(malloc(bytes));
  free(hide(block));
}

CASE(double_free_after_trim, DOUBLE_FREE, NOW) {
  void* kept = malloc(400);
  void* block = announce(malloc(400));
  free(block);
  malloc_trim(0);
  free(hide(block));
  free(kept);
}

CASE(double_free_of_memory_given_back, DOUBLE_FREE, NOW) {
  enum { COUNT = 3000 };
  static void* blocks[COUNT];
  for (int i = 0; i < COUNT; ++i) blocks[i] = malloc(400);
  for (int i = 0; i < COUNT; ++i) free(blocks[i]);
  malloc_trim(0);
  free(announce(blocks[1000]));
}

enum { FIRST = 416, IN_A_SLAB = 32 * KIB / FIRST, LATE = IN_A_SLAB * 4 / 5 * FIRST };

/* A block at the start of a slab that was cut anew, for `bytes`, where blocks of a size class of FIRST
 * bytes stood that were freed. What the thread still has of these comes first. */
static char* first_of_a_slab_cut_anew(size_t bytes) {
  enum { COUNT = 20 * IN_A_SLAB };
  static char* blocks[COUNT];
  for (int i = 0; i < COUNT; ++i) blocks[i] = (char*)malloc(FIRST);
  for (int i = 0; i < COUNT; ++i) free(blocks[i]);
  for (int i = 0; bytes == FIRST && i < 5 * IN_A_SLAB; ++i) *(volatile char*)malloc(FIRST) = 0;
  for (int tries = 0; tries < 30000; ++tries) {
    char* block = (char*)malloc(bytes);
    if ((uintptr_t)block % (32 * KIB) != 0) continue;
    for (int i = 0; i < COUNT; ++i)
      if (blocks[i] == block + LATE) return block;
  }
  exit(0); /* an allocator that has no such slabs */
}
/* Behind what has been handed out of it; the hardened build knows where that ends. */
CASE_OF(double_free_after_its_slab_was_cut_anew, DOUBLE_FREE, NOW, SKIP, NOW) {
  free(announce(first_of_a_slab_cut_anew(FIRST) + LATE));
}
CASE_OF(double_free_after_its_slab_got_other_blocks, DOUBLE_FREE, NOW, SKIP, NOW) {
  free(announce(first_of_a_slab_cut_anew(48) + LATE));
}
CASE_OF(realloc_freed_after_its_slab_was_cut_anew, DOUBLE_FREE, NOW, SKIP, NOW) {
  if (realloc(announce(first_of_a_slab_cut_anew(FIRST) + LATE), FIRST - 10) != NULL) abort();
}
/* In the middle of what is a block now. */
CASE_OF(double_free_into_a_block_that_came_since, INVALID, NOW, SKIP, NOW) {
  free(announce(first_of_a_slab_cut_anew(2000) + FIRST));
}

CASE(double_free_by_two_threads, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  in_thread(free_it, block);
  in_thread(free_it, block);
}

static sem_t is_freed;
static void* free_and_stay(void* block) {
  free(hide(block));
  sem_post(&is_freed);
  for (;;) pause();
  return NULL;
}
CASE(double_free_of_what_a_living_thread_freed, DOUBLE_FREE, NOW) {
  pthread_t thread;
  void* block = announce(malloc(200));
  if (sem_init(&is_freed, 0, 0) != 0 || pthread_create(&thread, NULL, free_and_stay, block) != 0) abort();
  while (sem_wait(&is_freed) != 0) continue;
  free(hide(block));
}

static void* take_and_free_for(void* result) {
  *(void**)result = take_and_free((void*)(uintptr_t)200);
  return NULL;
}

CASE(double_free_of_what_a_dead_thread_freed, DOUBLE_FREE, NOW) {
  void* block = NULL;
  in_thread(take_and_free_for, &block);
  free(announce(block));
}

CASE(double_free_in_a_forked_child, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  free(block);
  pid_t child = fork();
  if (child == 0) {
    free(hide(block));
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) abort();
}

/* Between the frees the program writes over what tells that the block is free:
 * the list that has it twice shows when it is handed out again. */
CASE_OF(double_free_after_write, CORRUPTED, LATER, DOUBLE_FREE, NOW) {
  char* block = (char*)announce(malloc(48));
  free(block);
  memset(hide(block), 0, 16);
  free(hide(block));
  for (int i = 0; i < 2; ++i) *(volatile char*)malloc(48) = 0;
}

CASE_OF(double_free_after_write_and_others, DOUBLE_FREE, LATER, DOUBLE_FREE, NOW) {
  static void* others[4000];
  for (int i = 0; i < 4000; ++i) others[i] = malloc(48);
  char* block = (char*)announce(malloc(48));
  free(block);
  memset(hide(block), 0, 16);
  free(hide(block));
  for (int i = 0; i < 4000; ++i) free(others[i]);
  for (int i = 0; i < 4002; ++i) *(volatile char*)malloc(48) = 0;
}

#define ALLOCATED_BY(name, allocation)         \
  CASE(double_free_##name, DOUBLE_FREE, NOW) { \
    void* block = announce(allocation);        \
    free(block);                               \
    free(hide(block));                         \
  }
static void* from_posix_memalign(void) {
  void* block = NULL;
  return posix_memalign(&block, 128, 100) == 0 ? block : NULL;
}
ALLOCATED_BY(calloc, calloc(10, 10))
ALLOCATED_BY(realloc, realloc(NULL, 100))
ALLOCATED_BY(reallocarray, reallocarray(malloc(10), 30, 10))
ALLOCATED_BY(aligned_alloc, aligned_alloc(64, 128))
ALLOCATED_BY(aligned_alloc_page, aligned_alloc(4096, 3000))
ALLOCATED_BY(posix_memalign, from_posix_memalign())
ALLOCATED_BY(memalign_32k, memalign(32 * KIB, 100))
ALLOCATED_BY(memalign_64k, memalign(64 * KIB, 100))
ALLOCATED_BY(memalign_4m, memalign(4 * MIB, 100))
ALLOCATED_BY(valloc, valloc(100))
ALLOCATED_BY(strdup, strdup("some text that is copied"))
ALLOCATED_BY(0_bytes, malloc(0))

CASE(double_free_after_realloc_to_zero, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  if (realloc(block, 0) == NULL) free(hide(block));
}

CASE(double_free_sized, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  call_free_sized(block, 48);
  call_free_sized(hide(block), 48);
}

CASE(double_free_aligned_sized, DOUBLE_FREE, NOW) {
  void* block = announce(aligned_alloc(64, 128));
  call_free_aligned_sized(block, 64, 128);
  call_free_aligned_sized(hide(block), 64, 128);
}

CASE(free_of_null, NOTHING, NOW) {
  free(hide(NULL));
  if (malloc_usable_size(hide(NULL)) != 0) abort();
}

/* What a freed block holds may be copied into a live one, which looks like a freed one then. */
CASE(content_of_a_freed_block, NOTHING, NOW) {
  const size_t sizes[] = {16, 64, 500, 3 * KIB, 100 * KIB};
  char* copy = (char*)malloc(100 * KIB);
  for (int i = 0; i < 1000; ++i) {
    size_t bytes = sizes[i % 5];
    char* block = (char*)malloc(bytes);
    char* freed = (char*)malloc(bytes);
    free(freed);
    memcpy(copy, hide(freed), bytes);
    memcpy(block, copy, bytes);
    if (malloc_usable_size(block) < bytes) abort();
    if (i % 2 == 0) block = (char*)realloc(block, bytes + bytes / 2);
    free(block);
  }
  free(copy);
}

int main(int argc, char** argv) { return misuse_main(argc, argv); }
