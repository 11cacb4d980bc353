// What huge allocations left behind and is held back from the kernel: some ranges
// of pages, oldest first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"

namespace hakmem {

// Guarded by the lock of the HugeHeap.
class RetainedRanges {
 public:
  static constexpr uint32_t kMax = 64;

  struct Range {
    uintptr_t address;
    size_t bytes;
  };

  uint32_t count() const { return count_; }
  size_t bytes() const { return bytes_; }  // of all
  bool is_full() const { return count_ == kMax; }
  const Range& operator[](uint32_t index) const { return ranges_[index]; }

  void add(Range range) {
    HAKMEM_ASSERT(!is_full());
    ranges_[count_++] = range;
    bytes_ += range.bytes;
  }

  Range remove(uint32_t index) {
    Range range = ranges_[index];
    bytes_ -= range.bytes;
    --count_;
    for (uint32_t i = index; i < count_; ++i) ranges_[i] = ranges_[i + 1];
    return range;
  }

  // By a part of it.
  void replace(uint32_t index, Range range) {
    bytes_ -= ranges_[index].bytes - range.bytes;
    ranges_[index] = range;
  }

  // The smallest that is large enough; count() when there is none.
  uint32_t best(size_t bytes, size_t alignment) const {
    uint32_t best = count_;
    for (uint32_t i = 0; i < count_; ++i)
      if (ranges_[i].bytes >= bytes && ranges_[i].address % alignment == 0 &&
          (best == count_ || ranges_[i].bytes < ranges_[best].bytes))
        best = i;
    return best;
  }

  // count() when there is none.
  uint32_t largest() const {
    uint32_t largest = count_;
    for (uint32_t i = 0; i < count_; ++i)
      if (largest == count_ || ranges_[i].bytes > ranges_[largest].bytes) largest = i;
    return largest;
  }

  // count() when there is none.
  uint32_t starting_at(uintptr_t address) const {
    uint32_t index = 0;
    while (index < count_ && ranges_[index].address != address) ++index;
    return index;
  }

 private:
  uint32_t count_ = 0;
  size_t bytes_ = 0;
  Range ranges_[kMax]{};
};

}  // namespace hakmem
