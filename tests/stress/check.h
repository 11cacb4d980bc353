// What the stress programs share: checks that stay in optimised builds, values
// that the compiler cannot see through, and the proof that hakmem is preloaded.
//
// A program that passes prints one line and exits 0. All of them refuse to run
// on another allocator, so that a preload that silently failed is a failure;
// ANY_ALLOCATOR=1 in the environment lifts that and skips what only hakmem does.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>

#include "tests/unit/support/build.h"

// Ends the program by SIGABRT, so that a debugger or a core shows the place. A
// forked child that fails is seen by its parent through the wait status.
#define CHECK(condition)                                                                         \
  do {                                                                                           \
    if (!(condition)) {                                                                          \
      dprintf(2, "%s:%d: check failed: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
      abort();                                                                                   \
    }                                                                                            \
  } while (0)

// As CHECK(left op right), and shows both values. Numbers only.
#define CHECK_OP(left, op, right)                                                                        \
  do {                                                                                                   \
    auto left_value = (left);                                                                            \
    auto right_value = (right);                                                                          \
    if (!(left_value op right_value)) {                                                                  \
      dprintf(2, "%s:%d: check failed: %s %s %s (%lld, %lld)\n", __FILE__, __LINE__, #left, #op, #right, \
              static_cast<long long>(left_value), static_cast<long long>(right_value));                  \
      abort();                                                                                           \
    }                                                                                                    \
  } while (0)

namespace stress {

inline constexpr size_t kKiB = 1024;
inline constexpr size_t kMiB = 1024 * kKiB;

// The same value, unknown to the compiler: no warning about an absurd size, no
// pair of malloc and free removed.
template <class T>
inline T opaque(T value) {
  asm volatile("" : "+r"(value) : : "memory");
  return value;
}

using hakmem::test::kSanitized;
using hakmem::test::kThreadSanitizer;

// A bound of resident memory, which says nothing where a sanitizer keeps books of each byte.
#define CHECK_RESIDENT(left, op, right)             \
  do {                                              \
    if (!kSanitized) CHECK_OP((left), op, (right)); \
  } while (0)

// `count`, or a part of it where each access is checked.
constexpr size_t rounds(size_t count, size_t part = 8) { return kSanitized ? count / part : count; }

inline bool any_allocator_allowed() { return getenv("ANY_ALLOCATOR") != nullptr; }

#if defined(HAKMEM_LINKED_IN)
// Whether malloc() of this program is hakmem's, see linked_in.cc.
bool hakmem_is_loaded();
#else
// Whether a libhakmem is mapped. Allocates nothing; callable at any time.
inline bool hakmem_is_loaded() {
  static const char kName[] = "libhakmem";
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char buffer[4096];
  size_t kept = 0;
  bool found = false;
  for (;;) {
    ssize_t got = read(fd, buffer + kept, sizeof buffer - kept);
    if (got <= 0) break;
    size_t length = kept + static_cast<size_t>(got);
    found = found || memmem(buffer, length, kName, sizeof kName - 1) != nullptr;
    // The name may lie across two reads.
    kept = length < sizeof kName ? length : sizeof kName;
    memmove(buffer, buffer + length - kept, kept);
  }
  close(fd);
  return found;
}
#endif

// True under hakmem, false under another allocator that was allowed; ends the
// program otherwise. First line of every main().
inline bool require_hakmem() {
  if (hakmem_is_loaded()) return true;
  if (any_allocator_allowed()) return false;
  dprintf(2, "libhakmem is not preloaded (LD_PRELOAD=%s)\n", getenv("LD_PRELOAD") ? getenv("LD_PRELOAD") : "");
  _exit(2);
}

inline double now_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

inline void sleep_milliseconds(long milliseconds) {
  timespec time{milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (nanosleep(&time, &time) != 0 && errno == EINTR) continue;
}

// The beginning of a file, ended by a zero. Allocates nothing.
template <size_t kBytes>
void read_text(const char* file, char (&text)[kBytes]) {
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  ssize_t length = read(fd, text, kBytes - 1);
  CHECK(length > 0);
  text[length] = 0;
  close(fd);
}

// Resident bytes of the process, from the kernel. Allocates nothing.
inline size_t resident_bytes() {
  char text[128];
  read_text("/proc/self/statm", text);
  const char* second = strchr(text, ' ');
  CHECK(second != nullptr);
  return strtoull(second, nullptr, 10) * static_cast<size_t>(getpagesize());
}

// The same without what is mapped from files: code becomes resident as it first runs, whoever allocates.
inline size_t resident_bytes_without_files() {
  char text[4096];
  read_text("/proc/self/status", text);
  size_t kib = 0;
  for (const char* name : {"\nRssAnon:", "\nRssShmem:"}) {
    const char* line = strstr(text, name);
    CHECK(line != nullptr);
    kib += strtoull(line + strlen(name), nullptr, 10);
  }
  return kib * 1024;
}

inline int passed(const char* what) {
  printf("%s: passed\n", what);
  return 0;
}

}  // namespace stress
