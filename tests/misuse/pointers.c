/* Pointers that are no allocated block: of other memory, and of other places in a block. */
#include <malloc.h>
#include <sys/mman.h>

#include "tests/misuse/misuse.h"

static char data_bytes[4096] = {1};
static const char constant_bytes[4096] = {1};
static _Thread_local char thread_bytes[256];

static void* mapped(void) {
  void* page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? NULL : page;
}

static void* unmapped(void) {
  void* page = mapped();
  munmap(page, 8192);
  return page;
}

static void* free_it(void* block) {
  free(hide(block));
  return NULL;
}

extern char** environ;
#define FOREIGN(name, pointer) \
  CASE(free_##name, FOREIGN, NOW) { free(announce(pointer)); }
FOREIGN(data, data_bytes + 64)
FOREIGN(constant, constant_bytes + 64)
FOREIGN(literal, "a literal of the program, which is constant")
FOREIGN(code, (void*)(uintptr_t)&misuse_main)
FOREIGN(code_of_libc, (void*)(uintptr_t)&getenv)
FOREIGN(thread_local, thread_bytes + 16)
FOREIGN(environment, environ[0])
FOREIGN(mapped_page, mapped())
FOREIGN(inside_mapped_page, (char*)mapped() + 4096 + 64)
FOREIGN(unmapped_page, unmapped())
FOREIGN(first_page, (void*)(uintptr_t)0x10)
FOREIGN(small_odd_number, (void*)(uintptr_t)0x7)
FOREIGN(address_of_kernel, (void*)(uintptr_t)0xffff800000001000)
FOREIGN(non_canonical, (void*)(uintptr_t)0x7fff012300000010)
FOREIGN(all_ones, (void*)~(uintptr_t)0)
FOREIGN(pattern, (void*)(uintptr_t)0x4141414141414141)
FOREIGN(stdout, stdout)

CASE(free_stack, FOREIGN, NOW) {
  char bytes[256] = {0};
  free(announce(bytes + 16));
}

static void* free_own_stack(void* unused) {
  (void)unused;
  char bytes[256] = {0};
  free(announce(bytes + 16));
  return NULL;
}
CASE(free_stack_of_thread, FOREIGN, NOW) { in_thread(free_own_stack, NULL); }

#define USED_FOREIGN(name, pointer)                                                 \
  CASE(realloc_##name, FOREIGN, NOW) {                                              \
    if (realloc(announce(pointer), 300) != NULL) abort();                           \
  }                                                                                 \
  CASE(realloc_to_zero_##name, FOREIGN, NOW) {                                      \
    if (realloc(announce(pointer), 0) != NULL) abort();                             \
  }                                                                                 \
  CASE(reallocarray_##name, FOREIGN, NOW) {                                         \
    if (reallocarray(announce(pointer), 3, 100) != NULL) abort();                   \
  }                                                                                 \
  CASE(usable_size_##name, FOREIGN, NOW) {                                          \
    if (malloc_usable_size(announce(pointer)) != 0) abort();                        \
  }                                                                                 \
  CASE(free_sized_##name, FOREIGN, NOW) { call_free_sized(announce(pointer), 64); } \
  CASE(free_aligned_sized_##name, FOREIGN, NOW) { call_free_aligned_sized(announce(pointer), 64, 64); }
USED_FOREIGN(data, data_bytes + 64)
USED_FOREIGN(mapped_page, mapped())

/* In a block of its own thread, which the hot path takes: noticed when it leaves
 * the thread's cache, and at the end of the process at the latest. */
#define INSIDE_OWN(name, bytes, offset) \
  CASE_INSIDE(free_inside_##name) { free(announce((char*)calloc(1, bytes) + (offset))); }
INSIDE_OWN(16_misaligned, 16, 8)
INSIDE_OWN(100, 100, 16)
INSIDE_OWN(100_misaligned, 100, 1)
INSIDE_OWN(1000, 1000, 512)
INSIDE_OWN(2k, 2 * KIB, 1 * KIB)
INSIDE_OWN(20k, 20 * KIB, 4096)

#define INSIDE(name, bytes, offset) \
  CASE(free_inside_##name, INVALID, NOW) { free(announce((char*)calloc(1, bytes) + (offset))); }
INSIDE(100k, 100 * KIB, 16)
INSIDE(100k_far, 100 * KIB, 80 * KIB)
INSIDE(500k, 500 * KIB, 16)
INSIDE(500k_page, 500 * KIB, 4096)
INSIDE(500k_far, 500 * KIB, 300 * KIB)
INSIDE(5m, 5 * MIB, 16)
INSIDE(5m_page, 5 * MIB, 4096)
INSIDE(5m_far, 5 * MIB, 4 * MIB)

CASE(free_before_5m, FOREIGN, NOW) { free(announce((char*)malloc(5 * MIB) - 16)); }

CASE_OF(free_inside_then_others, INVALID, LATER, INVALID, NOW) {
  static void* others[4000];
  for (int i = 0; i < 4000; ++i) others[i] = malloc(100);
  free(announce((char*)malloc(100) + 16));
  for (int i = 0; i < 4000; ++i) free(others[i]);
}

CASE(free_inside_by_another_thread, INVALID, NOW) { in_thread(free_it, announce((char*)malloc(100) + 16)); }

static void* take_100(void* result) {
  *(void**)result = malloc(100);
  return NULL;
}

static void* free_inside_own(void* unused) {
  (void)unused;
  free(announce((char*)malloc(100) + 16));
  return NULL;
}
CASE(free_inside_in_a_thread_that_ends, INVALID, NOW) { in_thread(free_inside_own, NULL); }

CASE_INSIDE(free_inside_aligned) { free(announce((char*)aligned_alloc(256, 1024) + 256)); }

/* Addresses of the heap that were never handed out. */
CASE(free_far_behind_a_block, INVALID, NOW) {
  free(announce((char*)(((uintptr_t)malloc(100) & ~(uintptr_t)(2 * MIB - 1)) + 2 * MIB - 4096)));
}
CASE(free_far_behind_the_heap, FOREIGN, NOW) { free(announce((char*)malloc(100) + 16 * MIB)); }
CASE(free_behind_the_carved, INVALID, LATER) { free(announce((char*)malloc(48) + 48 * 1000)); }

#define USED_INSIDE(name, bytes, offset)                                                     \
  CASE(realloc_inside_##name, INVALID, NOW) {                                                \
    if (realloc(announce((char*)calloc(1, bytes) + (offset)), 3 * (bytes)) != NULL) abort(); \
  }                                                                                          \
  CASE(usable_size_inside_##name, INVALID, NOW) {                                            \
    if (malloc_usable_size(announce((char*)calloc(1, bytes) + (offset))) != 0) abort();      \
  }                                                                                          \
  CASE(free_sized_inside_##name, INVALID, NOW) { call_free_sized(announce((char*)calloc(1, bytes) + (offset)), bytes); }
USED_INSIDE(200, 200, 16)
USED_INSIDE(2k, 2 * KIB, 1 * KIB)
USED_INSIDE(20k, 20 * KIB, 4096)
USED_INSIDE(100k, 100 * KIB, 4096)
USED_INSIDE(500k, 500 * KIB, 4096)
USED_INSIDE(5m, 5 * MIB, 4096)

CASE(realloc_inside_100, INVALID, NOW) {
  if (realloc(announce((char*)malloc(100) + 16), 300) != NULL) abort();
}

/* To a size that needs no move. */
#define KEPT_INSIDE(name, bytes, offset)                                                            \
  CASE(realloc_kept_inside_##name, INVALID, NOW) {                                                  \
    if (realloc(announce((char*)calloc(1, bytes) + (offset)), (bytes) - (offset)) != NULL) abort(); \
  }
KEPT_INSIDE(16_misaligned, 16, 4)
KEPT_INSIDE(100, 100, 16)
KEPT_INSIDE(100_misaligned, 100, 1)
KEPT_INSIDE(2k, 2 * KIB, 16)
KEPT_INSIDE(20k, 20 * KIB, 4096)
KEPT_INSIDE(100k, 100 * KIB, 4096)
KEPT_INSIDE(500k, 500 * KIB, 4096)
KEPT_INSIDE(5m, 5 * MIB, 4096)
CASE(realloc_kept_behind_the_carved, INVALID, NOW) {
  if (realloc(announce((char*)malloc(48) + 48 * 1000), 40) != NULL) abort();
}
CASE(realloc_kept_inside_a_block_of_another_thread, INVALID, NOW) {
  void* block = NULL;
  in_thread(take_100, &block);
  if (realloc(announce((char*)block + 16), 80) != NULL) abort();
}

int main(int argc, char** argv) { return misuse_main(argc, argv); }
