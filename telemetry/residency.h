// What is resident, asked from the kernel: our ranges by mincore, or where it may be
// forbidden by the map of pages, as everything else. Never as a difference.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

struct Range {
  uintptr_t begin;
  uintptr_t end;
};

// A list of ranges in memory mapped for it alone; grows by itself. When the
// kernel gives no memory it drops ranges and says so. One thread at a time.
class RangeList {
 public:
  void clear() { count_ = 0, complete_ = true; }
  void add(uintptr_t address, size_t bytes);
  // Sorts by address and joins what overlaps.
  void normalise();
  const Range* begin() const { return ranges_; }
  const Range* end() const { return ranges_ + count_; }
  bool complete() const { return complete_; }
  size_t mapped_bytes() const { return capacity_ * sizeof(Range); }
  Range mapping() const {
    auto address = reinterpret_cast<uintptr_t>(ranges_);
    return {address, address + mapped_bytes()};
  }

 private:
  Range* ranges_ = nullptr;
  size_t count_ = 0;
  size_t capacity_ = 0;
  bool complete_ = true;
};

inline constexpr size_t kKernelPageBytes = 4096;

// Whether mincore may be asked: a filter of system calls may end the process for it, which systemd's
// @system-service lacks, for one. A system call, so once for many ranges.
bool may_ask_mincore();

// One byte a page, bit 0 set when it is resident. False when that cannot be told; where the range is
// not mapped throughout, false or no page. For private anonymous memory.
bool resident_pages(uintptr_t address, size_t bytes, unsigned char* pages, bool by_mincore);

// How many of the `count` pages are resident; eight at a time, as a heap has many.
inline uint64_t count_resident(const unsigned char* pages, size_t count) {
  constexpr uint64_t kLowBits = 0x0101010101010101;
  uint64_t resident = 0;
  for (; count >= 8; pages += 8, count -= 8) {
    uint64_t eight = 0;
    __builtin_memcpy(&eight, pages, sizeof eight);
    resident += ((eight & kLowBits) * kLowBits) >> 56;
  }
  for (; count > 0; --count) resident += *pages++ & 1;
  return resident;
}

// Resident bytes of private anonymous memory.
uint64_t resident_bytes(uintptr_t address, size_t bytes, bool by_mincore);

// Resident bytes of the process by /proc/self/statm; 0 when it cannot be read.
uint64_t process_resident_bytes();

// What the exact, slower account of /proc/self/smaps_rollup says, in bytes.
// False without it (before Linux 4.14).
struct Rollup {
  uint64_t resident;
  uint64_t huge_pages;    // of them: anonymous memory in huge pages
  uint64_t lazily_freed;  // of them: given up by MADV_FREE, which the kernel takes when it needs memory
  uint64_t swapped;
};
bool read_rollup(Rollup* result);
// About how many nanoseconds it takes (measured: 5 ms at 512 MiB of small pages).
constexpr uint64_t rollup_cost(uint64_t resident) { return resident / 100; }

// Whether a total is further from the exact one than what may change between
// the two being read: a MiB and 1 %. An exact total of 0 is unknown.
constexpr bool is_off(uint64_t total, uint64_t exact) {
  uint64_t difference = total > exact ? total - exact : exact - total;
  return exact != 0 && difference > (uint64_t{1} << 20) + exact / 100;
}

struct MappingAccount {
  uint64_t outside;    // mappings that are neither ours nor the exporter's
  uint64_t telemetry;  // the exporter's: its ranges and its libraries
};

// What is resident in all of the process but `ours` (normalised). `telemetry_ranges`
// (normalised) and the objects noted by note_objects_after go to telemetry.
// False when /proc does not tell. For who has the page.
bool account_for_mappings(const RangeList& ours, const RangeList& telemetry_ranges, MappingAccount* result);

// What the loader has loaded by the second call and had not by the first is the exporter
// module and its libraries. For the serving thread, without the page: they wait for the loader.
void note_objects_before();
void note_objects_after();

}  // namespace hakmem::telemetry
