// What a file of the kernel says, for settings that are read when the process starts.
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>

namespace hakmem {

// Up to `bytes` from its start; how many, negative when it cannot be read. By system calls of our own:
// libc's functions may be the program's by now, and are points at which a thread can be cancelled.
// Sets errno where it fails. Any thread.
inline long read_small_file(const char* file, char* text, size_t bytes) {
  auto fd = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC));
  if (fd < 0) return -1;
  long length = ::syscall(SYS_read, fd, text, bytes);
  ::syscall(SYS_close, fd);
  return length;
}

}  // namespace hakmem
