// A heap view made up by a test. The ranges in it are real mappings, so that
// the kernel's answers about them are real too.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "allocator/metrics/heap_view.h"

namespace hakmem::telemetry {

struct FakeHeap {
  uint16_t look = 0;
  std::vector<metrics::SuperslabView> superslabs;
  std::map<uintptr_t, std::vector<metrics::SlabView>> slabs;  // by superslab
  std::vector<metrics::HugeView> huge;
  std::vector<metrics::ThreadCacheView> threads;
  std::vector<metrics::RangeView> reservations;
  std::vector<metrics::RangeView> metadata;
  metrics::RangeView private_range{};
  size_t hold_back = 0;  // beside a tenth of what is used
  LockStatsView locks[metrics::kCountOf<metrics::Lock>]{};
};

// What metrics::heap_view shows in the test program.
extern FakeHeap fake_heap;

// Size classes of the fake: 16, 32, 48, ...
constexpr size_t fake_class_bytes(uint32_t size_class) {
  return size_class < metrics::kSlabClassCount ? 16 * (size_class + 1) : 0;
}

// Anonymous memory that lives as long as the test; the first `touched` bytes are resident.
class Mapping {
 public:
  explicit Mapping(size_t bytes, size_t touched = 0);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(address_); }
  size_t bytes() const { return bytes_; }
  void touch(size_t offset, size_t bytes);

 private:
  char* address_;
  size_t bytes_;
};

}  // namespace hakmem::telemetry
