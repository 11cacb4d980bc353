#include "telemetry/map_reader.h"

#include <errno.h>

#include <cstring>

#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constinit char buffer[8192]{};  // longer than any line: PATH_MAX and what stands before it

}  // namespace

MapReader::MapReader() : fd_(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) {}

MapReader::~MapReader() {
  if (fd_ >= 0) close(fd_);
}

size_t MapReader::next_line() {
  for (;;) {
    auto* newline = static_cast<char*>(memchr(buffer + start_, '\n', end_ - start_));
    if (newline != nullptr) {
      *newline = '\0';
      return static_cast<size_t>(newline - (buffer + start_)) + 1;
    }
    memmove(buffer, buffer + start_, end_ - start_);
    end_ -= start_;
    start_ = 0;
    if (end_ == sizeof buffer) return 0;
    ssize_t count = read(fd_, buffer + end_, sizeof buffer - end_);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return 0;
    end_ += static_cast<size_t>(count);
  }
}

bool MapReader::next(MapEntry* entry) {
  size_t length = next_line();
  if (length == 0) return false;
  const char* text = buffer + start_;
  start_ += length;
  entry->begin = parse_hexadecimal(&text);
  if (*text != '-') return false;
  ++text;
  entry->end = parse_hexadecimal(&text);
  // Permissions, offset, device and inode stand before the path.
  for (int field = 0; field < 4; ++field) {
    text += strspn(text, " ");
    text += strcspn(text, " ");
  }
  entry->path = text + strspn(text, " ");
  return true;
}

}  // namespace hakmem::telemetry
