// System calls and small readers of /proc for code inside the host process.
//
// The preload library may need no symbol above GLIBC_2.28, and the names here
// either moved into newer versions (stat, pthread_create, dlopen) or allocate
// (opendir, fopen). So: raw calls, and weak references to the oldest versions.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

// Like fstat(2); -1 and errno on failure.
inline long raw_fstat(int fd, struct stat* result) { return syscall(SYS_fstat, fd, result); }
inline long raw_fstatat(int directory, const char* name, struct stat* result) {
  return syscall(SYS_newfstatat, directory, name, result, AT_SYMLINK_NOFOLLOW);
}

inline uint64_t clock_nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Reads at most bytes - 1 of a file and ends it with a zero; the number of
// bytes read, or -1.
ssize_t read_small_file(const char* path, char* buffer, size_t bytes);

// The decimal number at *text, which is moved behind it.
uint64_t parse_decimal(const char** text);
// The hexadecimal number at *text, which is moved behind it.
uint64_t parse_hexadecimal(const char** text);

// Of a process of this pid namespace; false when there is no such process or no
// /proc. A zombie still has an entry, but its memory is gone.
struct ProcessStat {
  uint64_t start_time;
  uint64_t cpu_ticks;  // of its threads, ended ones too
  uint32_t parent;
  bool is_zombie;
};
bool read_process_stat(uint32_t pid, ProcessStat* result);
// Of this process, also where /proc shows another pid namespace than its own.
bool read_own_stat(ProcessStat* result);

// Inode of this process's pid namespace; 0 when it cannot be told.
uint64_t own_pid_namespace();
// The same of any process, by its link /proc/PID/ns/pid.
uint64_t pid_namespace_of(const char* link);

// Text put together in a buffer of the caller; what does not fit is cut.
class TextBuilder {
 public:
  TextBuilder(char* buffer, size_t bytes) : next_(buffer), end_(buffer + bytes - 1) { *next_ = '\0'; }
  TextBuilder& text(const char* text);
  TextBuilder& number(uint64_t number);

 private:
  char* next_;
  char* end_;
};

}  // namespace hakmem::telemetry
