// Which pages of this process's address space are present, by /proc/self/pagemap.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

// One thread at a time.
class PageMap {
 public:
  PageMap();
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  bool is_open() const { return fd_ >= 0; }

  // Bytes of [begin, end) that the process is charged for as resident; false
  // when that cannot be told at a bearable cost.
  bool present_bytes(uintptr_t begin, uintptr_t end, uint64_t* bytes);

 private:
  bool scan(uintptr_t begin, uintptr_t end, uint64_t* bytes);
  bool read_entries(uintptr_t begin, uintptr_t end, uint64_t* bytes);

  int fd_;
  bool can_scan_ = true;
  uint64_t entries_left_;  // of the slower way, for all ranges together
};

}  // namespace hakmem::telemetry
