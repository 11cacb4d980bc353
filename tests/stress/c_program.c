/* A C program: no C++ runtime is loaded, neither by it nor by the preload, and
 * everything that only the runtime could give is bound weakly. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int hakmem_loaded;
static int runtime_loaded;

static int visit(struct dl_phdr_info* info, size_t size, void* data) {
  (void)size;
  (void)data;
  if (strstr(info->dlpi_name, "libhakmem") != NULL) hakmem_loaded = 1;
  if (strstr(info->dlpi_name, "libstdc++") != NULL || strstr(info->dlpi_name, "libgcc_s") != NULL) runtime_loaded = 1;
  return 0;
}

static int fail(const char* what) {
  fprintf(stderr, "c_program: %s\n", what);
  return 1;
}

int main(void) {
  dl_iterate_phdr(visit, NULL);
  if (!hakmem_loaded && getenv("ANY_ALLOCATOR") == NULL) return fail("libhakmem is not preloaded");
  if (runtime_loaded) return fail("a C++ runtime is loaded");

  void* blocks[1000];
  for (size_t i = 0; i < 1000; ++i) {
    blocks[i] = malloc(i * 37 + 1);
    if (blocks[i] == NULL) return fail("malloc failed");
    memset(blocks[i], (int)i, i * 37 + 1);
  }
  for (size_t i = 0; i < 1000; ++i) {
    unsigned char* bytes = blocks[i];
    if (bytes[0] != (unsigned char)i || bytes[i * 37] != (unsigned char)i) return fail("content differs");
    free(bytes);
  }

  /* operator new without a runtime: it works as long as memory lasts, and the
   * nothrow forms report an impossible size by NULL. */
  void* (*operator_new)(size_t);
  void* (*operator_new_nothrow)(size_t, const void*);
  void* (*operator_new_aligned)(size_t, size_t, const void*);
  void* (*operator_new_array_nothrow)(size_t, const void*);
  void* (*operator_new_array_aligned)(size_t, size_t, const void*);
  void (*operator_delete)(void*);
  *(void**)&operator_new = dlsym(RTLD_DEFAULT, "_Znwm");
  *(void**)&operator_new_nothrow = dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
  *(void**)&operator_new_aligned = dlsym(RTLD_DEFAULT, "_ZnwmSt11align_val_tRKSt9nothrow_t");
  *(void**)&operator_new_array_nothrow = dlsym(RTLD_DEFAULT, "_ZnamRKSt9nothrow_t");
  *(void**)&operator_new_array_aligned = dlsym(RTLD_DEFAULT, "_ZnamSt11align_val_tRKSt9nothrow_t");
  *(void**)&operator_delete = dlsym(RTLD_DEFAULT, "_ZdlPv");
  if (hakmem_loaded) {
    if (operator_new == NULL || operator_new_nothrow == NULL || operator_new_aligned == NULL ||
        operator_new_array_nothrow == NULL || operator_new_array_aligned == NULL || operator_delete == NULL)
      return fail("operator new is not exported");
    void* made[] = {operator_new(100), operator_new_nothrow(100, ""), operator_new_array_nothrow(100, ""),
                    operator_new_aligned(100, 512, ""), operator_new_array_aligned(100, 512, "")};
    for (size_t i = 0; i < sizeof made / sizeof *made; ++i) {
      if (made[i] == NULL) return fail("operator new failed");
      if (i >= 3 && (uintptr_t)made[i] % 512 != 0) return fail("operator new did not align");
      memset(made[i], 1, 100);
      operator_delete(made[i]);
    }
    const size_t impossible = (size_t)-1 - 4096;
    if (operator_new_nothrow(impossible, "") != NULL || operator_new_array_nothrow(impossible, "") != NULL ||
        operator_new_aligned(impossible, 512, "") != NULL || operator_new_array_aligned(impossible, 512, "") != NULL)
      return fail("an impossible size was not refused");
  }
  puts("c_program: passed");
  return 0;
}
