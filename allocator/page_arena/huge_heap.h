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
  explicit constexpr HugeHeap(PageArena<Memory>& arena) : table_(arena), retained_(table_) {}

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
      if (uint32_t best = retained_.best(mapped, alignment); best != retained_.count()) {
        entry = retained_.take(best, mapped, entry);
        entry->requested.store(bytes, std::memory_order_relaxed);
        used_bytes_ += entry->bytes.load(std::memory_order_relaxed);
        metrics::count<metrics::Metric::kHugeAllocations>(shard);
        return {reinterpret_cast<void*>(entry->address.load(std::memory_order_relaxed)), false};
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
    Victims victims;
    {
      LockGuard guard(lock_);
      Entry* entry = table_.find(reinterpret_cast<uintptr_t>(address));
      if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return false;
      size_t bytes = entry->bytes.load(std::memory_order_relaxed);
      if constexpr (has(Mitigation::kZeroOnFree)) clear_pages<Memory>(address, bytes);
      entry->requested.store(0, std::memory_order_relaxed);
      used_bytes_ -= bytes;
      retain({reinterpret_cast<uintptr_t>(address), bytes}, victims);
    }
    metrics::count<metrics::Metric::kHugeFrees>(shard);
    unmap(victims, shard);
    return true;
  }

  enum class Growth : uint8_t { kCheapest, kNotByCopy };
  // Resizes where it stands, or by mremap. Null, and nothing changed, when the kernel refuses, or
  // where to copy the block is cheapest. The block must be live. Any thread.
  void* resize(void* address, size_t bytes, uint32_t shard, Growth growth = Growth::kCheapest) {
    Victims victims;
    {
      LockGuard guard(lock_);
      Entry* entry = table_.find(reinterpret_cast<uintptr_t>(address));
      if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return nullptr;
      const void* old_address = address;
      size_t mapped = align_up(bytes, kPageBytes);
      size_t old_mapped = entry->bytes.load(std::memory_order_relaxed);
      if (mapped > old_mapped) {
        if (!grow(entry, mapped, shard, growth)) return nullptr;
        address = reinterpret_cast<void*>(entry->address.load(std::memory_order_relaxed));
      } else if (old_mapped - mapped > mapped / 8) {  // else as allocate() leaves it
        shrink(entry, mapped, victims);
      }
      entry->requested.store(bytes, std::memory_order_relaxed);
      if constexpr (kBuild.stats) {
        // Under the lock: nobody has the old address for a new block yet.
        if (metrics::hooks.on_sample_resize != nullptr)
          metrics::hooks.on_sample_resize(old_address, address, bytes, entry->bytes.load(std::memory_order_relaxed));
      }
    }
    unmap(victims, shard);
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
    Victims victims;
    {
      LockGuard guard(lock_);
      released_bytes_ /= 2;
      policy_.decay(retained_.bytes());
      if (retained_.count() == 0) return;
      give_up(retained_.trim(kDecayBytes), victims);
    }
    unmap(victims, shard);
  }

  // Unmaps all that is retained. Returns the bytes.
  size_t purge(uint32_t shard) {
    Victims victims;
    {
      LockGuard guard(lock_);
      while (retained_.count() > 0) give_up(retained_.take_out(0), victims);
      region_.release();
    }
    return unmap(victims, shard);
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
  size_t retained_bytes() const HAKMEM_NO_THREAD_ANALYSIS { return retained_.bytes(); }  // any thread, no lock

 private:
  static constexpr size_t kHugePagesFrom = 2 * kMiB;  // in use, or of a mapping of its own
  // Copied to retained pages: after mremap new pages are faults, and its addresses nobody's neighbours.
  static constexpr size_t kMaxCopied = 8 * kMiB;
  static constexpr size_t kDecayBytes = 16 * kMiB;  // a second, so that no call takes long

  using Entry = typename HugeTable<Memory>::Entry;
  using Range = typename RetainedRanges<Memory>::Range;

  // Taken out of what is retained under the lock, for unmap() without it.
  struct Victims {
    bool is_full() const { return count == kMaxRetained; }
    void add(Range range) { ranges[count++] = range; }

    uint32_t count = 0;
    Range ranges[kMaxRetained];
  };

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
      retained_.take_out(i);
      return {last.address, last.bytes, origin};
    }
    uintptr_t fresh = region_.take(bytes, used_bytes_ + bytes >= kHugePagesFrom, last_origin_);
    if (fresh != 0) return {fresh, 0, region_.origin()};
    // None of less than half of that is worth growing.
    uint32_t largest = retained_.largest();
    if (largest == retained_.count() || retained_[largest].bytes < bytes / 2) return {};
    Range grown = retained_.take_out(largest);
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
    Victims whole;
    whole.add({source.address, source.held_bytes});
    unmap(whole, shard);  // under a limit, the addresses may be what is missing
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

  // False, and nothing changed, as resize().
  bool grow(Entry* entry, size_t bytes, uint32_t shard, Growth growth) HAKMEM_REQUIRES(lock_) {
    size_t old_bytes = entry->bytes.load(std::memory_order_relaxed);
    if (extend_in_place(entry, bytes)) {
      used_bytes_ += bytes - old_bytes;
      return true;
    }
    if (growth != Growth::kNotByCopy && old_bytes <= kMaxCopied &&
        retained_.best(bytes, kPageBytes) != retained_.count())
      return false;
    void* moved =
        Memory::remap(reinterpret_cast<void*>(entry->address.load(std::memory_order_relaxed)), old_bytes, bytes);
    if (moved == nullptr) return false;
    allow_huge_pages(moved, old_bytes, bytes);
    used_bytes_ += bytes - old_bytes;
    metrics::count<metrics::Metric::kHugeRemaps>(shard);
    table_.unlink(entry);
    table_.insert(entry, reinterpret_cast<uintptr_t>(moved), bytes, entry->requested.load(std::memory_order_relaxed),
                  ++last_origin_);
    return true;
  }

  // What is behind is retained; without memory for its entry the block keeps it.
  void shrink(Entry* entry, size_t bytes, Victims& victims) HAKMEM_REQUIRES(lock_) {
    Entry* rest = table_.take();
    if (rest == nullptr) return;
    uintptr_t end = entry->address.load(std::memory_order_relaxed) + bytes;
    size_t rest_bytes = entry->bytes.load(std::memory_order_relaxed) - bytes;
    if constexpr (has(Mitigation::kZeroOnFree)) clear_pages<Memory>(reinterpret_cast<void*>(end), rest_bytes);
    entry->bytes.store(bytes, std::memory_order_relaxed);
    used_bytes_ -= rest_bytes;
    table_.insert(rest, end, rest_bytes, 0, entry->origin);
    retain({end, rest_bytes}, victims);
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
      retained_.take_front(index, more);
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

  // From now on, as its entry says; what exceeds the hold-back goes.
  void retain(Range range, Victims& victims) HAKMEM_REQUIRES(lock_) {
    if (retained_.is_full()) give_up(retained_.take_out(0), victims);
    retained_.add(range);
    size_t surplus = 0;
    while (!victims.is_full() && (surplus = policy_.surplus(retained_.bytes(), used_bytes_)) != 0)
      give_up(retained_.trim(surplus), victims);
  }

  void give_up(Range range, Victims& victims) HAKMEM_REQUIRES(lock_) {
    released_bytes_ += range.bytes;
    victims.add(range);
  }

  size_t unmap(const Victims& victims, uint32_t shard) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < victims.count; ++i) {
      Memory::release(reinterpret_cast<void*>(victims.ranges[i].address), victims.ranges[i].bytes);
      bytes += victims.ranges[i].bytes;
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
  RetainedRanges<Memory> retained_ HAKMEM_GUARDED_BY(lock_);
};

}  // namespace hakmem
