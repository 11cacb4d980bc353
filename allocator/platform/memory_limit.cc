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

// Up to `bytes` from the start of a file; how many, negative when it cannot be read. By system calls of our
// own: libc's functions may be the program's by now, and are points at which a thread can be cancelled.
long read_small_file(const char* file, char* text, size_t bytes) {
  auto fd = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC));
  if (fd < 0) return -1;
  long length = ::syscall(SYS_read, fd, text, bytes);
  ::syscall(SYS_close, fd);
  return length;
}

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
