#include "allocator/platform/memory_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace hakmem {
namespace {

constexpr const char* kFiles[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};

constexpr size_t kNoLimit = size_t{1} << 62;  // version 1 says so by a number near 2^63

// What stands in a file, SIZE_MAX for "max". False when there is no such file. By system calls of our own:
// libc's functions may be the program's by now, and are points at which a thread can be cancelled.
bool read_limit(const char* file, size_t* limit) {
  auto fd = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC));
  if (fd < 0) return false;
  char text[24];
  long length = ::syscall(SYS_read, fd, text, sizeof text);
  ::syscall(SYS_close, fd);
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
