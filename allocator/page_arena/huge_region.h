// Addresses for huge allocations, side by side: what was freed beside each other
// serves a larger request, and neighbours share huge pages. They are taken from
// the front of a reservation and never come back here; HugeHeap retains what is
// freed, cuts it and joins it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/platform/virtual_memory.h"

namespace hakmem {

// Guarded by the lock of the HugeHeap, but for visit_rest().
template <VirtualMemory Memory>
class HugeRegion {
 public:
  static constexpr size_t kBytes = 1 * kGiB;
  static constexpr size_t kMaxRangeBytes = kBytes / 16;  // so much is lost at most where a region ends

  // `bytes` of zeroes. 0 when there are none: where the kernel refuses, and under a limit
  // of the address space, which a region would use up. `last_origin` is counted up when
  // the range is not one mapping with those before it.
  uintptr_t take(size_t bytes, bool huge_pages, uint64_t& last_origin) {
    if (bytes > kMaxRangeBytes) return 0;
    if (bytes > end_ - next() && !reserve()) return 0;
    if (huge_pages && !has_huge_pages_) allow_huge_pages();
    uintptr_t address = next();
    if (!extend(address, bytes)) return 0;
    if (origin_ == 0) origin_ = ++last_origin;
    return address;
  }

  // Lengthens the range that ends at `end`; false when that is not the last one, or the
  // region ends there, or the kernel refuses.
  bool extend(uintptr_t end, size_t bytes) {
    uintptr_t next = next_.load(std::memory_order_relaxed);
    if (end != next || bytes > end_ - next) return false;
    uintptr_t committed = committed_.load(std::memory_order_relaxed);
    if (next + bytes > committed) {
      // The kernel puts a huge page only where all of it is committed.
      size_t more = align_up(next + bytes, has_huge_pages_ ? kHugePageBytes : kPageBytes) - committed;
      if (!Memory::commit(reinterpret_cast<void*>(committed), more)) return false;
      committed_.store(committed + more, std::memory_order_relaxed);
    }
    next_.store(next + bytes, std::memory_order_relaxed);
    return true;
  }

  // Of the range that was taken last: ranges of one origin are one mapping.
  uint64_t origin() const { return origin_; }

  // Gives back the addresses that were not taken.
  void release() {
    if (end_ > next()) Memory::release(reinterpret_cast<void*>(next()), end_ - next());
    set(0, 0);
  }

  // Bytes behind the last range that share its huge page. Any thread, no lock.
  template <class Visit>
  void visit_rest(Visit visit) const {
    uintptr_t next = next_.load(std::memory_order_relaxed);
    size_t bytes = committed_.load(std::memory_order_relaxed) - next;
    // More than that where the two are of two moments.
    if (bytes != 0 && bytes < kHugePageBytes) visit(next, bytes);
  }

 private:
  bool reserve() {
    release();
    if (Memory::address_space_limit() != SIZE_MAX) return false;
    auto base = reinterpret_cast<uintptr_t>(Memory::reserve(kBytes, kHugePageBytes, 0));
    if (base == 0) return false;
    set(base, base + kBytes);
    has_huge_pages_ = false;
    return true;
  }

  // From here on; what there is before remains a mapping of its own.
  void allow_huge_pages() {
    set(align_up(next(), kHugePageBytes), end_);
    has_huge_pages_ = true;
    Memory::allow_huge_pages(reinterpret_cast<void*>(next()), end_ - next(), true);
  }

  void set(uintptr_t next, uintptr_t end) {
    next_.store(next, std::memory_order_relaxed);
    committed_.store(next, std::memory_order_relaxed);
    end_ = end;
    origin_ = 0;
  }

  uintptr_t next() const { return next_.load(std::memory_order_relaxed); }

  std::atomic<uintptr_t> next_{0};       // to be taken; written under the lock
  std::atomic<uintptr_t> committed_{0};  // up to here; written under the lock
  uintptr_t end_ = 0;
  uint64_t origin_ = 0;          // of what is taken from here on; 0: not decided
  bool has_huge_pages_ = false;  // from next_ on
};

}  // namespace hakmem
