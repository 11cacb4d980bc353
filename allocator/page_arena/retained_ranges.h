// What huge allocations left behind and is held back from the kernel: some ranges of
// pages, oldest first. What was left side by side is one range, unless the kernel has
// two mappings there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/bits.h"
#include "allocator/page_arena/huge_table.h"

namespace hakmem {

inline constexpr uint32_t kMaxRetained = 64;

// Each range has an entry in the table. Guarded by the lock of the HugeHeap.
template <VirtualMemory Memory>
class RetainedRanges {
 public:
  using Entry = typename HugeTable<Memory>::Entry;
  struct Range {
    uintptr_t address;
    size_t bytes;
  };

  explicit constexpr RetainedRanges(HugeTable<Memory>& table) : table_(table) {}

  uint32_t count() const { return count_; }
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }  // of all; any thread
  bool is_full() const { return count_ == kMaxRetained; }
  const Range& operator[](uint32_t index) const { return ranges_[index]; }

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

  // Joined with its neighbours: there must be room for one more, whose entry is in the table
  // and says that it is retained.
  void add(Range range) {
    Entry* entry = table_.find(range.address);
    for (uint32_t i = count_; i-- > 0;) {
      Range neighbour = ranges_[i];
      bool below = neighbour.address + neighbour.bytes == range.address;
      if (!below && range.address + range.bytes != neighbour.address) continue;
      Entry* other = table_.find(neighbour.address);
      if (other->origin != entry->origin) continue;
      remove(i);
      range = {below ? neighbour.address : range.address, range.bytes + neighbour.bytes};
      table_.erase(below ? entry : other);
      entry = below ? other : entry;
    }
    entry->bytes.store(range.bytes, std::memory_order_relaxed);
    append(range);
  }

  // Nobody's from then on.
  Range take_out(uint32_t index) {
    table_.erase(table_.find(ranges_[index].address));
    return remove(index);
  }

  // For a live allocation, whose entry is returned: all of the range, or `bytes` from its front if
  // more than an eighth would be over. `spare` is for what is left then, or goes back.
  Entry* take(uint32_t index, size_t bytes, Entry* spare) {
    Entry* entry = table_.find(ranges_[index].address);
    if (ranges_[index].bytes - bytes > bytes / 8) {
      entry->bytes.store(bytes, std::memory_order_relaxed);
      cut_front(index, bytes, spare, entry->origin);
    } else {
      table_.put(spare);
      remove(index);
    }
    return entry;
  }

  // Takes the first `bytes` off what is retained there, for the live allocation before it; it may be all.
  void take_front(uint32_t index, size_t bytes) {
    if (ranges_[index].bytes == bytes) {
      take_out(index);
      return;
    }
    Entry* rest = table_.find(ranges_[index].address);
    table_.unlink(rest);
    cut_front(index, bytes, rest, rest->origin);
  }

  // Takes about `bytes` out of what is retained longest, to be given back to the kernel: whole huge pages,
  // from the end. One that goes in part is small pages from then on, for its neighbours too. Where
  // there is none, all of the oldest.
  Range trim(size_t bytes) {
    for (uint32_t i = 0; i < count_; ++i) {
      uintptr_t begin = align_up(ranges_[i].address, kHugePageBytes);
      uintptr_t end = align_down(ranges_[i].address + ranges_[i].bytes, kHugePageBytes);
      if (begin >= end) continue;
      if (bytes < end - begin) begin = align_down(end - bytes, kHugePageBytes);
      return cut_out(i, {begin, end - begin});
    }
    return take_out(0);
  }

 private:
  // Takes a part out of what is retained there; with what is behind it, where that cannot be kept.
  Range cut_out(uint32_t index, Range part) {
    Range whole = ranges_[index];
    Entry* entry = table_.find(whole.address);
    size_t before = part.address - whole.address;
    size_t behind = whole.bytes - before - part.bytes;
    Entry* rest = behind == 0 || is_full() ? nullptr : table_.take();
    if (rest == nullptr) {
      part.bytes += behind;
    } else {
      uintptr_t end = part.address + part.bytes;
      table_.insert(rest, end, behind, 0, entry->origin);
      append({end, behind});
    }
    if (before == 0) {
      take_out(index);
    } else {
      entry->bytes.store(before, std::memory_order_relaxed);
      replace(index, {whole.address, before});
    }
    return part;
  }

  // The rest is of `entry`, which is not in the table.
  void cut_front(uint32_t index, size_t bytes, Entry* entry, uint64_t origin) {
    Range rest{ranges_[index].address + bytes, ranges_[index].bytes - bytes};
    replace(index, rest);
    table_.insert(entry, rest.address, rest.bytes, 0, origin);
  }

  void append(Range range) {
    HAKMEM_ASSERT(!is_full());
    ranges_[count_++] = range;
    set_bytes(bytes() + range.bytes);
  }

  Range remove(uint32_t index) {
    Range range = ranges_[index];
    set_bytes(bytes() - range.bytes);
    --count_;
    for (uint32_t i = index; i < count_; ++i) ranges_[i] = ranges_[i + 1];
    return range;
  }

  void set_bytes(size_t bytes) { bytes_.store(bytes, std::memory_order_relaxed); }

  // By a part of it.
  void replace(uint32_t index, Range part) {
    set_bytes(bytes() - (ranges_[index].bytes - part.bytes));
    ranges_[index] = part;
  }

  HugeTable<Memory>& table_;
  uint32_t count_ = 0;
  std::atomic<size_t> bytes_{0};  // written by the holder of the heap's lock
  Range ranges_[kMaxRetained]{};
};

}  // namespace hakmem
