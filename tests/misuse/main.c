#include <dlfcn.h>
#include <pthread.h>
#include <sys/resource.h>

#include "tests/misuse/misuse.h"

extern const struct misuse_case* const __start_misuse_cases[];
extern const struct misuse_case* const __stop_misuse_cases[];

void* hide(const void* pointer) {
  const void* volatile hidden = pointer;
  return (void*)hidden;
}

/* Allocates nothing, as dprintf() does where stdout is a file. */
void* announce(const void* pointer) {
  char line[32];
  int length = snprintf(line, sizeof line, "%p\n", pointer);
  if (write(1, line, (size_t)length) != length) abort();
  return hide(pointer);
}

void in_thread(void* (*body)(void*), void* argument) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, body, argument) != 0) abort();
  pthread_join(thread, NULL);
}

void call_free_sized(void* pointer, size_t bytes) {
  void (*function)(void*, size_t) = (void (*)(void*, size_t))(uintptr_t)dlsym(RTLD_DEFAULT, "free_sized");
  if (function != NULL)
    function(pointer, bytes);
  else
    free(pointer);
}

void call_free_aligned_sized(void* pointer, size_t alignment, size_t bytes) {
  void (*function)(void*, size_t, size_t) =
      (void (*)(void*, size_t, size_t))(uintptr_t)dlsym(RTLD_DEFAULT, "free_aligned_sized");
  if (function != NULL)
    function(pointer, alignment, bytes);
  else
    free(pointer);
}

/* Rounds of blocks of many sizes, some of which outlive the round. A block that
 * is handed out twice shows in its content. */
void go_on(void) {
  enum { BLOCKS = 3000 };
  static unsigned char* blocks[BLOCKS];
  static size_t sizes[BLOCKS];
  for (int round = 0; round < 6; ++round) {
    for (int i = 0; i < BLOCKS; ++i) {
      if (blocks[i] != NULL) continue;
      sizes[i] = (size_t)(i % 40 == 0 ? 2 * KIB + 1 + i : i % 500 == 1 ? 20 * KIB + i : 1 + i * 7 % 300);
      blocks[i] = (unsigned char*)malloc(sizes[i]);
      if (blocks[i] == NULL) abort();
      memset(blocks[i], i & 255, sizes[i]);
    }
    for (int i = round & 1; i < BLOCKS; i += 1 + (round & 1)) {
      for (size_t k = 0; k < sizes[i]; ++k)
        if (blocks[i][k] != (i & 255)) {
          dprintf(1, "a block was handed out twice\n");
          return;
        }
      free(blocks[i]);
      blocks[i] = NULL;
    }
  }
}

static void* nothing(void* unused) { return unused; }

static int list(void) {
  for (const struct misuse_case* const* entry = __start_misuse_cases; entry != __stop_misuse_cases; ++entry)
    printf("%s %s %s %s %s\n", (*entry)->name, (*entry)->expected, (*entry)->when, (*entry)->hardened,
           (*entry)->hardened_when);
  return 0;
}

int misuse_main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (strcmp(argv[1], "--list") == 0) return list();
  struct rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  in_thread(nothing, NULL); /* what a first thread needs is allocated by now */
  for (const struct misuse_case* const* entry = __start_misuse_cases; entry != __stop_misuse_cases; ++entry) {
    if (strcmp((*entry)->name, argv[1]) != 0) continue;
    (*entry)->run();
    dprintf(1, "went on\n");
    go_on();
    dprintf(1, "done\n");
    return 0;
  }
  return 2;
}
