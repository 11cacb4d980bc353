// Huge allocations: ranges of pages side by side in a region, or where one is very
// large, aligned, or addresses are limited, each a mapping of its own.
//
// What is freed is retained for a while, within the hold-back of PurgePolicy: page
// faults cost far more than anything that is done here to avoid them. A request
// takes what is retained and fits best, and leaves what it does not need; what was
// retained side by side is one again. Where nothing is large enough it takes more
// of the region, and without one it grows the largest, whose pages the kernel moves.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/base/lock.h"
#include "allocator/metrics/counters.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/page_arena/huge_region.h"
#include "allocator/page_arena/huge_table.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/page_arena/purge_policy.h"
#include "allocator/page_arena/retained_ranges.h"

namespace hakmem {

template <VirtualMemory Memory>
class HugeHeap {
 public:
  explicit constexpr HugeHeap(PageArena<Memory>& arena) : table_(arena) {}

  struct Allocation {
    void* address;  // null: the kernel gave no memory
    bool zeroed;
  };

  // `bytes` is not 0 and below PTRDIFF_MAX; `alignment` is a power of two. Any thread.
  Allocation allocate(size_t bytes, size_t alignment, uint32_t shard) {
    size_t mapped = align_up(bytes, kPageBytes);
    Entry* entry = nullptr;
    Source source{};
    {
      LockGuard guard(lock_);
      entry = table_.take();
      if (entry == nullptr) return {nullptr, false};
      if (uintptr_t reused = take_retained(mapped, bytes, alignment, entry); reused != 0) {
        metrics::count<metrics::Metric::kHugeAllocations>(shard);
        return {reinterpret_cast<void*>(reused), false};
      }
      if (alignment <= kPageBytes) source = take_source(mapped);
    }
    void* address = nullptr;
    if (source.address != 0) address = complete(source, mapped, shard);
    if (address == nullptr) {
      source = {};
      address = map_alone(mapped, alignment);
    }
    LockGuard guard(lock_);
    if (address == nullptr) {
      table_.put(entry);
      return {nullptr, false};
    }
    uint64_t origin = source.origin != 0 ? source.origin : ++last_origin_;
    table_.insert(entry, reinterpret_cast<uintptr_t>(address), mapped, bytes, origin);
    used_bytes_ += mapped;
    size_t fresh = mapped - source.held_bytes;
    size_t again = fresh < released_bytes_ ? fresh : released_bytes_;
    released_bytes_ -= again;
    policy_.taken_again(again, used_bytes_);
    metrics::count<metrics::Metric::kHugeAllocations>(shard);
    return {address, source.held_bytes == 0};
  }

  // False when `address` is not that of a live huge allocation. Any thread.
  bool free(void* address, uint32_t shard) {
    Range victims[RetainedRanges::kMax];
    uint32_t victim_count = 0;
    {
      LockGuard guard(lock_);
      Entry* entry = table_.find(reinterpret_cast<uintptr_t>(address));
      if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return false;
      size_t bytes = entry->bytes.load(std::memory_order_relaxed);
      if constexpr (has(Mitigation::kZeroOnFree)) clear_pages<Memory>(address, bytes);
      entry->requested.store(0, std::memory_order_relaxed);
      used_bytes_ -= bytes;
      Range range = merge_neighbours({reinterpret_cast<uintptr_t>(address), bytes});
      if (retained_.is_full()) victims[victim_count++] = give_up(0);
      retained_.add(range);
      size_t surplus = 0;
      while (victim_count < RetainedRanges::kMax && (surplus = policy_.surplus(retained_.bytes(), used_bytes_)) != 0)
        victims[victim_count++] = trim(surplus);
    }
    metrics::count<metrics::Metric::kHugeFrees>(shard);
    unmap(victims, victim_count, shard);
    return true;
  }

  enum class Growth : uint8_t { kCheapest, kNotByCopy };
  // Resizes where it stands, or by mremap. Null, and nothing changed, when the kernel refuses, or
  // where to copy the block is cheapest. The block must be live. Any thread.
  void* resize(void* address, size_t bytes, uint32_t shard, Growth growth = Growth::kCheapest) {
    size_t mapped = align_up(bytes, kPageBytes);
    LockGuard guard(lock_);
    Entry* entry = table_.find(reinterpret_cast<uintptr_t>(address));
    if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return nullptr;
    size_t old_mapped = entry->bytes.load(std::memory_order_relaxed);
    const void* old_address = address;
    if (mapped > old_mapped && extend_in_place(entry, mapped)) {
      used_bytes_ += mapped - old_mapped;
    } else if (mapped > old_mapped && growth != Growth::kNotByCopy && old_mapped <= kMaxCopied &&
               retained_.best(mapped, kPageBytes) != retained_.count()) {
      return nullptr;
    } else if (mapped > old_mapped || old_mapped - mapped > mapped / 8) {  // else as allocate() leaves it
      void* moved = Memory::remap(address, old_mapped, mapped);
      if (moved == nullptr) return nullptr;
      allow_huge_pages(moved, old_mapped, mapped);
      used_bytes_ += mapped - old_mapped;
      metrics::count<metrics::Metric::kHugeRemaps>(shard);
      if (moved == address) {
        entry->bytes.store(mapped, std::memory_order_relaxed);
        entry->origin = ++last_origin_;
      } else {
        table_.unlink(entry);
        table_.insert(entry, reinterpret_cast<uintptr_t>(moved), mapped, bytes, ++last_origin_);
        address = moved;
      }
    }
    entry->requested.store(bytes, std::memory_order_relaxed);
    if constexpr (kBuild.stats) {
      // Under the lock: nobody has the old address for a new block yet.
      if (metrics::hooks.on_sample_resize != nullptr)
        metrics::hooks.on_sample_resize(old_address, address, bytes, entry->bytes.load(std::memory_order_relaxed));
    }
    return address;
  }

  // Bytes mapped for a live huge allocation; 0 for any other address. Any thread.
  size_t usable_bytes(const void* address) {
    LockGuard guard(lock_);
    Entry* entry = table_.find(reinterpret_cast<uintptr_t>(address));
    if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return 0;
    return entry->bytes.load(std::memory_order_relaxed);
  }

  // What `address`, which is not that of a live huge allocation, lies in. Any thread.
  enum class Place : uint8_t { kOutside, kLive, kRetained };
  Place place_of(const void* address) {
    LockGuard guard(lock_);
    auto place = Place::kOutside;
    visit([&](uintptr_t start, size_t bytes, size_t requested) {
      if (reinterpret_cast<uintptr_t>(address) - start < bytes)
        place = requested != 0 ? Place::kLive : Place::kRetained;
    });
    return place;
  }

  // A second has passed: unmaps a part of what is retained longest.
  void decay(uint32_t shard) {
    Range victim;
    {
      LockGuard guard(lock_);
      released_bytes_ /= 2;
      policy_.decay(retained_.bytes());
      if (retained_.count() == 0) return;
      victim = trim(kDecayBytes);
    }
    unmap(&victim, 1, shard);
  }

  // Unmaps all that is retained. Returns the bytes.
  size_t purge(uint32_t shard) {
    Range victims[RetainedRanges::kMax];
    uint32_t victim_count = 0;
    {
      LockGuard guard(lock_);
      while (retained_.count() > 0) victims[victim_count++] = give_up(0);
      region_.release();
    }
    return unmap(victims, victim_count, shard);
  }

  // Each allocation, live (requested > 0) or retained, as HugeTable::visit(), and what shares
  // a huge page with the last of a region, as retained. Any thread, no lock.
  template <class Visit>
  void visit(Visit visit) const HAKMEM_NO_THREAD_ANALYSIS {
    table_.visit(visit);
    region_.visit_rest([&](uintptr_t address, size_t bytes) { visit(address, bytes, 0); });
  }

  // Bytes retained while `used` are live. Any thread.
  size_t hold_back(size_t used) const HAKMEM_NO_THREAD_ANALYSIS { return policy_.hold_back(used); }
  RankedLock& lock() { return lock_; }
  size_t retained_bytes() {
    LockGuard guard(lock_);
    return retained_.bytes();
  }

 private:
  static constexpr size_t kHugePagesFrom = 2 * kMiB;  // in use, or of a mapping of its own
  // Copied to retained pages: after mremap new pages are faults, and its addresses nobody's neighbours.
  static constexpr size_t kMaxCopied = 8 * kMiB;
  static constexpr size_t kDecayBytes = 16 * kMiB;  // a second, so that no call takes long

  using Entry = typename HugeTable<Memory>::Entry;
  using Range = RetainedRanges::Range;

  // What a new allocation is made of: pages that were retained, and more. Without an
  // origin they are still to be grown, else they are a range of the region.
  struct Source {
    uintptr_t address;  // 0: none
    size_t held_bytes;  // which have pages
    uint64_t origin;
  };

  // Of a source that holds pages at most half is new: `calloc` has to clear all of it.
  Source take_source(size_t bytes) HAKMEM_REQUIRES(lock_) {
    for (uint32_t i = 0; i < retained_.count(); ++i) {
      Range last = retained_[i];
      if (last.bytes < bytes / 2 || !region_.extend(last.address + last.bytes, bytes - last.bytes)) continue;
      uint64_t origin = table_.find(last.address)->origin;
      take_out(i);
      return {last.address, last.bytes, origin};
    }
    uintptr_t fresh = region_.take(bytes, used_bytes_ + bytes >= kHugePagesFrom, last_origin_);
    if (fresh != 0) return {fresh, 0, region_.origin()};
    // None of less than half of that is worth growing.
    uint32_t largest = retained_.largest();
    if (largest == retained_.count() || retained_[largest].bytes < bytes / 2) return {};
    Range grown = take_out(largest);
    return {grown.address, grown.bytes, 0};
  }

  // Null when the kernel refuses; then nothing of the source is left.
  void* complete(Source source, size_t bytes, uint32_t shard) {
    auto* address = reinterpret_cast<void*>(source.address);
    if (source.origin != 0) return address;
    if (void* grown = Memory::remap(address, source.held_bytes, bytes); grown != nullptr) {
      allow_huge_pages(grown, source.held_bytes, bytes);
      return grown;
    }
    Range whole{source.address, source.held_bytes};
    unmap(&whole, 1, shard);  // under a limit, the addresses may be what is missing
    return nullptr;
  }

  void* map_alone(size_t bytes, size_t alignment) {
    if (alignment < kPageBytes) alignment = kPageBytes;
    void* address = nullptr;
    if (bytes >= kHugePagesFrom && alignment < kHugePageBytes) address = Memory::map(bytes, kHugePageBytes);
    if (address == nullptr) address = Memory::map(bytes, alignment);
    if (address != nullptr) allow_huge_pages(address, 0, bytes);
    return address;
  }

  // Lengthens a live mapping by retained pages behind it, or by addresses that were not used yet.
  bool extend_in_place(Entry* entry, size_t bytes) HAKMEM_REQUIRES(lock_) {
    size_t old_bytes = entry->bytes.load(std::memory_order_relaxed);
    uintptr_t end = entry->address.load(std::memory_order_relaxed) + old_bytes;
    size_t more = bytes - old_bytes;
    uint32_t index = retained_.starting_at(end);
    if (index < retained_.count()) {
      Range behind = retained_[index];
      if (behind.bytes < more || table_.find(end)->origin != entry->origin) return false;
      if (behind.bytes == more) {
        take_out(index);
      } else {
        Entry* rest = table_.find(end);
        table_.unlink(rest);
        cut_front(index, more, rest, entry->origin);
      }
    } else if (!region_.extend(end, more)) {
      return false;
    }
    entry->bytes.store(bytes, std::memory_order_relaxed);
    return true;
  }

  // Once, of a mapping that has become large enough.
  static void allow_huge_pages(void* address, size_t old_bytes, size_t bytes) {
    if (old_bytes < kHugePagesFrom && bytes >= kHugePagesFrom) Memory::allow_huge_pages(address, bytes, true);
  }

  // The smallest retained range that is large enough, without what it has over, unless
  // that is less than an eighth. `spare` is for that, or goes back. 0 when there is none.
  uintptr_t take_retained(size_t bytes, size_t requested, size_t alignment, Entry* spare) HAKMEM_REQUIRES(lock_) {
    uint32_t best = retained_.best(bytes, alignment);
    if (best == retained_.count()) return 0;
    Range range = retained_[best];
    Entry* entry = table_.find(range.address);
    entry->requested.store(requested, std::memory_order_relaxed);
    if (range.bytes - bytes > bytes / 8) {
      entry->bytes.store(bytes, std::memory_order_relaxed);
      cut_front(best, bytes, spare, entry->origin);
      used_bytes_ += bytes;
    } else {
      table_.put(spare);
      used_bytes_ += range.bytes;
      retained_.remove(best);
    }
    return range.address;
  }

  // Takes the first `bytes` off what is retained there; the rest is of `entry` from then on.
  void cut_front(uint32_t index, size_t bytes, Entry* entry, uint64_t origin) HAKMEM_REQUIRES(lock_) {
    Range rest{retained_[index].address + bytes, retained_[index].bytes - bytes};
    retained_.replace(index, rest);
    table_.insert(entry, rest.address, rest.bytes, 0, origin);
  }

  // Nobody's from then on.
  Range take_out(uint32_t index) HAKMEM_REQUIRES(lock_) {
    Range range = retained_.remove(index);
    table_.erase(table_.find(range.address));
    return range;
  }

  // Joins a range that is retained from now on with retained neighbours, if
  // they are of one origin: the kernel does not grow what it keeps as two mappings.
  Range merge_neighbours(Range range) HAKMEM_REQUIRES(lock_) {
    for (uint32_t i = retained_.count(); i-- > 0;) {
      Range neighbour = retained_[i];
      bool below = neighbour.address + neighbour.bytes == range.address;
      if (!below && range.address + range.bytes != neighbour.address) continue;
      if (table_.find(neighbour.address)->origin != table_.find(range.address)->origin) continue;
      retained_.remove(i);
      table_.erase(table_.find(below ? range.address : neighbour.address));
      range = {below ? neighbour.address : range.address, range.bytes + neighbour.bytes};
    }
    table_.find(range.address)->bytes.store(range.bytes, std::memory_order_relaxed);
    return range;
  }

  // Takes about `bytes` of what is retained longest, for unmap(): whole huge pages, from the
  // end. One that is given back in part is small pages from then on, for its neighbours too.
  Range trim(size_t bytes) HAKMEM_REQUIRES(lock_) {
    for (uint32_t i = 0; i < retained_.count(); ++i) {
      uintptr_t begin = align_up(retained_[i].address, kHugePageBytes);
      uintptr_t end = align_down(retained_[i].address + retained_[i].bytes, kHugePageBytes);
      if (begin >= end) continue;
      if (bytes < end - begin) begin = align_down(end - bytes, kHugePageBytes);
      return cut_out(i, {begin, end - begin});
    }
    return give_up(0);
  }

  // Takes a part out of what is retained there; with what is behind it, where that cannot be kept.
  Range cut_out(uint32_t index, Range part) HAKMEM_REQUIRES(lock_) {
    Range whole = retained_[index];
    size_t before = part.address - whole.address;
    size_t behind = whole.bytes - before - part.bytes;
    Entry* entry = behind == 0 || retained_.is_full() ? nullptr : table_.take();
    if (entry == nullptr) {
      part.bytes += behind;
    } else {
      uintptr_t end = part.address + part.bytes;
      table_.insert(entry, end, behind, 0, table_.find(whole.address)->origin);
      retained_.add({end, behind});
    }
    if (before == 0) {
      take_out(index);
    } else {
      table_.find(whole.address)->bytes.store(before, std::memory_order_relaxed);
      retained_.replace(index, {whole.address, before});
    }
    released_bytes_ += part.bytes;
    return part;
  }

  // For unmap().
  Range give_up(uint32_t index) HAKMEM_REQUIRES(lock_) {
    Range range = take_out(index);
    released_bytes_ += range.bytes;
    return range;
  }

  size_t unmap(const Range* ranges, uint32_t count, uint32_t shard) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; ++i) {
      Memory::release(reinterpret_cast<void*>(ranges[i].address), ranges[i].bytes);
      bytes += ranges[i].bytes;
    }
    if (bytes > 0) metrics::count_purge(shard, bytes);
    return bytes;
  }

  RankedLock lock_{LockRank::kHuge};
  HugeRegion<Memory> region_ HAKMEM_GUARDED_BY(lock_);
  HugeTable<Memory> table_ HAKMEM_GUARDED_BY(lock_);
  size_t used_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t released_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;  // unmapped lately; what is mapped again was churn
  uint64_t last_origin_ HAKMEM_GUARDED_BY(lock_) = 0;
  PurgePolicy policy_ HAKMEM_GUARDED_BY(lock_);
  RetainedRanges retained_ HAKMEM_GUARDED_BY(lock_);
};

}  // namespace hakmem
