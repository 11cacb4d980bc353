// Reads /proc/self/maps line by line without allocating. One reader at a time:
// the buffer is static, as the stacks of the host's threads may be small.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

struct MapEntry {
  uintptr_t begin;
  uintptr_t end;
  const char* path;  // "" for anonymous memory; good until the next call of next()
};

class MapReader {
 public:
  MapReader();
  ~MapReader();
  MapReader(const MapReader&) = delete;
  MapReader& operator=(const MapReader&) = delete;

  bool is_open() const { return fd_ >= 0; }
  // The next mapping; false at the end.
  bool next(MapEntry* entry);

 private:
  // Makes a whole line start at `start_`; its length, or 0 at the end.
  size_t next_line();

  int fd_;
  size_t start_ = 0;
  size_t end_ = 0;
};

}  // namespace hakmem::telemetry
