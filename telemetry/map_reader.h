// Reads /proc/self/maps, by the rules of LineReader.
#pragma once

#include <cstddef>
#include <cstdint>

#include "telemetry/line_reader.h"

namespace hakmem::telemetry {

struct MapEntry {
  uintptr_t begin;
  uintptr_t end;
  uint64_t offset;   // in the file
  const char* path;  // "" for anonymous memory; good until the next call of next()
};

class MapReader {
 public:
  MapReader() : lines_(kFile) {}
  // With a buffer of the caller's, see LineReader.
  MapReader(char* buffer, size_t bytes) : lines_(kFile, buffer, bytes) {}

  bool is_open() const { return lines_.is_open(); }
  // The next mapping; false at the end.
  bool next(MapEntry* entry);

 private:
  static constexpr const char* kFile = "/proc/self/maps";
  LineReader lines_;
};

}  // namespace hakmem::telemetry
