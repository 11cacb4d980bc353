#include "allocator/platform/memory_limit.h"

#include <errno.h>

#include <cstdint>

#include "allocator/platform/small_file.h"

namespace hakmem {
namespace {

constexpr const char* kFiles[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};

constexpr size_t kNoLimit = size_t{1} << 62;  // version 1 says so by a number near 2^63

// What stands in a file, SIZE_MAX for "max". False when there is no such file.
bool read_limit(const char* file, size_t* limit) {
  char text[24];
  long length = read_small_file(file, text, sizeof text);
  if (length < 0) return false;
  size_t bytes = 0;
  for (long i = 0; i < length && text[i] >= '0' && text[i] <= '9'; ++i)
    bytes = bytes * 10 + static_cast<size_t>(text[i] - '0');
  *limit = bytes > 0 && bytes < kNoLimit ? bytes : SIZE_MAX;
  return true;
}

}  // namespace

size_t container_memory_limit() {
  int saved_errno = errno;
  size_t limit = SIZE_MAX;
  for (const char* file : kFiles)
    if (read_limit(file, &limit)) break;
  errno = saved_errno;
  return limit;
}

}  // namespace hakmem
