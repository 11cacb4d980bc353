// How many part-full slabs of a class a thread keeps while it has others beside it, and does not refill from them;
// what comes beyond is left to others.
#pragma once

#include <cstdint>

#include "allocator/superslab/size_class.h"

namespace hakmem {

// Of one class of a thread cache; its thread's own.
//
// Few: what eight threads keep would be most of the heap, and of larger blocks few stand in a slab. But a thread that
// frees all it has and allocates as much again would give its slabs away, take the other threads' for them, and each
// block's content would go from one processor to the other and back. It shows in rows: of many slabs that went, one
// after the other, and then of as many that refills took. Threads that pass blocks on have short ones.
class KeptSlabs {
 public:
  static constexpr uint32_t kOfSmall = 8;
  static constexpr uint32_t kOfLarger = 2;
  static constexpr size_t kLargerBlock = 512;  // from more than this on
  static constexpr uint32_t kRow = 16;
  static constexpr size_t kMostBytes = 2 * kMiB;  // of slabs of larger blocks, after rows

  uint32_t limit(uint32_t size_class) const { return (is_larger(size_class) ? kOfLarger : kOfSmall) + more_; }

  // A part-full slab went to others, as there were more than the limit.
  void given() {
    if (taken_ != 0) {
      if (taken_ < kRow && more_ > 0) --more_;
      given_ = taken_ = 0;
    }
    ++given_;
  }
  // A refill took a slab from elsewhere.
  void taken(uint32_t size_class) {
    ++taken_;
    bool was_own = taken_ >= kRow && taken_ <= given_;
    if (was_own && is_larger(size_class) && (more_ + 1) * kClassShapes[size_class].units * kUnitBytes <= kMostBytes)
      ++more_;
  }

 private:
  static bool is_larger(uint32_t size_class) { return kClassShapes[size_class].block_bytes > kLargerBlock; }

  uint32_t given_ = 0, taken_ = 0;  // in a row
  uint32_t more_ = 0;
};

}  // namespace hakmem
