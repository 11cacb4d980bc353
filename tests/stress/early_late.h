// What early_late and its library share.
#pragma once

#include <string.h>
#include <unistd.h>

namespace stress {

// One line on stdout without stdio, which may be gone by then.
inline void write_mark(const char* what) {
  char line[80];
  size_t length = strnlen(what, sizeof line - 1);
  memcpy(line, what, length);
  line[length++] = '\n';
  if (write(1, line, length) < 0) _exit(9);
}

// A block allocated inside the library.
void* block_of_library();

}  // namespace stress
