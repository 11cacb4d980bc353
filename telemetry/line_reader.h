// Reads a file of /proc line by line without allocating. One reader at a time has
// the static buffer: the stacks of the host's threads may be small.
#pragma once

#include <cstddef>

namespace hakmem::telemetry {

class LineReader {
 public:
  explicit LineReader(const char* path);
  // With a buffer of the caller's, longer than any line.
  LineReader(const char* path, char* buffer, size_t bytes);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  bool is_open() const { return fd_ >= 0; }
  // The next line, without its end; good until the next call. Null at the end,
  // and at a line longer than the buffer.
  char* next();

 private:
  char* buffer_;
  size_t bytes_;
  int fd_;
  size_t start_ = 0;
  size_t end_ = 0;
};

}  // namespace hakmem::telemetry
