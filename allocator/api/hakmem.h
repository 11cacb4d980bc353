/* hakmem: what the library offers beside <stdlib.h>. C and C++. */
#ifndef HAKMEM_H
#define HAKMEM_H

#include <stddef.h>

#ifndef HAKMEM_VERSION
#define HAKMEM_VERSION "0.1.0"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* C23: free, with the size (and alignment) that were asked for. Null is ignored. Any thread. */
void free_sized(void* address, size_t bytes);
void free_aligned_sized(void* address, size_t alignment, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
