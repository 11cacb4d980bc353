// Reads /proc/self/maps, by the rules of LineReader.
#pragma once

#include <cstddef>
#include <cstdint>

#include "telemetry/line_reader.h"

namespace hakmem::telemetry {

struct MapEntry {
  uintptr_t begin;
  uintptr_t end;
  const char* path;  // "" for anonymous memory; good until the next call of next()
};

class MapReader {
 public:
  MapReader() : lines_("/proc/self/maps") {}

  bool is_open() const { return lines_.is_open(); }
  // The next mapping; false at the end.
  bool next(MapEntry* entry);

 private:
  LineReader lines_;
};

}  // namespace hakmem::telemetry
