// Which pages of this process's address space are present, by /proc/self/pagemap.
#pragma once

#include <cstddef>
#include <cstdint>

#include "telemetry/residency.h"

namespace hakmem::telemetry {

// One thread at a time.
class PageMap {
 public:
  PageMap();
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  bool is_open() const { return fd_ >= 0; }

  // Calls visit(Range) for each run of pages in [begin, end) that the process is charged
  // for, in the order of their addresses; not all of the range need be mapped. False
  // where the kernel cannot tell (before Linux 6.7): then some may have been visited.
  template <class Visit>
  bool visit_present(uintptr_t begin, uintptr_t end, Visit visit) {
    uintptr_t visited = begin;  // a call may begin with the end of what the last one said
    while (begin < end) {
      int count = scan(&begin, end);
      if (count < 0) return false;
      for (int i = 0; i < count; ++i) {
        Range run = run_at(i);
        if (run.begin < visited) run.begin = visited;
        if (run.begin >= run.end) continue;
        visit(run);
        visited = run.end;
      }
    }
    return true;
  }

  // Bytes of [begin, end) that the process is charged for as resident; false
  // when that cannot be told at a bearable cost.
  bool present_bytes(uintptr_t begin, uintptr_t end, uint64_t* bytes);

  // Where the addresses end that a process may have; 0 where visit_present() cannot tell.
  uintptr_t end_of_addresses();

 private:
  // Moves *begin behind what was scanned; how many runs there are, or -1.
  int scan(uintptr_t* begin, uintptr_t end);
  static Range run_at(int index);
  bool read_entries(uintptr_t begin, uintptr_t end, uint64_t* bytes);

  int fd_;
  bool can_scan_ = true;
  uint64_t entries_left_;  // of the slower way, for all ranges together
};

}  // namespace hakmem::telemetry
