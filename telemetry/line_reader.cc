#include "telemetry/line_reader.h"

#include <errno.h>

#include <cstring>

#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constinit char shared_buffer[8192]{};  // longer than any line: PATH_MAX and what stands before it

}  // namespace

LineReader::LineReader(const char* path) : LineReader(path, shared_buffer, sizeof shared_buffer) {}

LineReader::LineReader(const char* path, char* buffer, size_t bytes)
    : buffer_(buffer), bytes_(bytes), fd_(open(path, O_RDONLY | O_CLOEXEC)) {}

LineReader::~LineReader() {
  if (fd_ >= 0) close(fd_);
}

char* LineReader::next() {
  for (;;) {
    char* line = buffer_ + start_;
    auto* newline = static_cast<char*>(memchr(line, '\n', end_ - start_));
    if (newline != nullptr) {
      *newline = '\0';
      start_ = static_cast<size_t>(newline - buffer_) + 1;
      return line;
    }
    memmove(buffer_, line, end_ - start_);
    end_ -= start_;
    start_ = 0;
    if (end_ == bytes_) return nullptr;
    ssize_t count = read(fd_, buffer_ + end_, bytes_ - end_);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return nullptr;
    end_ += static_cast<size_t>(count);
  }
}

}  // namespace hakmem::telemetry
