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
    Mapping victims[kMaxRetained + 1];
    uint32_t victim_count = 0;
    {
      LockGuard guard(lock_);
      Entry* entry = table_.find(reinterpret_cast<uintptr_t>(address));
      if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return false;
      size_t bytes = entry->bytes.load(std::memory_order_relaxed);
      if constexpr (has(Mitigation::kZeroOnFree)) clear_pages<Memory>(address, bytes);
      entry->requested.store(0, std::memory_order_relaxed);
      used_bytes_ -= bytes;
      Mapping mapping = merge_neighbours({reinterpret_cast<uintptr_t>(address), bytes});
      if (retained_count_ == kMaxRetained) victims[victim_count++] = trim_oldest(SIZE_MAX);
      retained_[retained_count_++] = mapping;
      retained_bytes_ += mapping.bytes;
      while (size_t surplus = policy_.surplus(retained_bytes_, used_bytes_))
        victims[victim_count++] = trim_oldest(surplus);
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
               best_retained(mapped, kPageBytes) != retained_count_) {
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
    Mapping victim;
    {
      LockGuard guard(lock_);
      released_bytes_ /= 2;
      policy_.decay(retained_bytes_);
      if (retained_count_ == 0) return;
      victim = trim_oldest(kDecayBytes);
    }
    unmap(&victim, 1, shard);
  }

  // Unmaps all that is retained. Returns the bytes.
  size_t purge(uint32_t shard) {
    Mapping victims[kMaxRetained + 1];
    uint32_t victim_count = 0;
    {
      LockGuard guard(lock_);
      while (retained_count_ > 0) victims[victim_count++] = trim_oldest(SIZE_MAX);
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
    return retained_bytes_;
  }

 private:
  static constexpr size_t kHugePagesFrom = 2 * kMiB;  // in use, or of a mapping of its own
  static constexpr uint32_t kMaxRetained = 32;
  // Copied to retained pages: after mremap new pages are faults, and its addresses nobody's neighbours.
  static constexpr size_t kMaxCopied = 8 * kMiB;
  static constexpr size_t kDecayBytes = 16 * kMiB;  // a second, so that no call takes long

  using Entry = typename HugeTable<Memory>::Entry;
  struct Mapping {
    uintptr_t address;
    size_t bytes;
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
    for (uint32_t i = 0; i < retained_count_; ++i) {
      Mapping last = retained_[i];
      if (last.bytes < bytes / 2 || !region_.extend(last.address + last.bytes, bytes - last.bytes)) continue;
      uint64_t origin = table_.find(last.address)->origin;
      take_out(i);
      return {last.address, last.bytes, origin};
    }
    uintptr_t fresh = region_.take(bytes, used_bytes_ + bytes >= kHugePagesFrom, last_origin_);
    if (fresh != 0) return {fresh, 0, region_.origin()};
    Mapping largest = take_largest(bytes);
    return {largest.address, largest.bytes, 0};
  }

  // Null when the kernel refuses; then nothing of the source is left.
  void* complete(Source source, size_t bytes, uint32_t shard) {
    auto* address = reinterpret_cast<void*>(source.address);
    if (source.origin != 0) return address;
    if (void* grown = Memory::remap(address, source.held_bytes, bytes); grown != nullptr) {
      allow_huge_pages(grown, source.held_bytes, bytes);
      return grown;
    }
    Mapping whole{source.address, source.held_bytes};
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
    uint32_t index = 0;
    while (index < retained_count_ && retained_[index].address != end) ++index;
    if (index < retained_count_) {
      Mapping& behind = retained_[index];
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

  // The smallest retained mapping that is large enough, without what it has
  // over, unless that is less than an eighth. `spare` is for that, or goes back. 0 when there is none.
  uintptr_t take_retained(size_t bytes, size_t requested, size_t alignment, Entry* spare) HAKMEM_REQUIRES(lock_) {
    uint32_t best = best_retained(bytes, alignment);
    if (best == retained_count_) return 0;
    Mapping& mapping = retained_[best];
    uintptr_t address = mapping.address;
    Entry* entry = table_.find(address);
    entry->requested.store(requested, std::memory_order_relaxed);
    size_t rest = mapping.bytes - bytes;
    if (rest > bytes / 8) {
      entry->bytes.store(bytes, std::memory_order_relaxed);
      cut_front(best, bytes, spare, entry->origin);
      used_bytes_ += bytes;
    } else {
      table_.put(spare);
      used_bytes_ += mapping.bytes;
      remove_retained(best);
    }
    return address;
  }

  // Takes the first `bytes` off what is retained there; the rest is of `entry` from then on.
  void cut_front(uint32_t index, size_t bytes, Entry* entry, uint64_t origin) HAKMEM_REQUIRES(lock_) {
    Mapping& mapping = retained_[index];
    mapping = {mapping.address + bytes, mapping.bytes - bytes};
    table_.insert(entry, mapping.address, mapping.bytes, 0, origin);
    retained_bytes_ -= bytes;
  }

  // The largest retained mapping, which is nobody's then, to be grown to `bytes`;
  // none of less than half of that.
  Mapping take_largest(size_t bytes) HAKMEM_REQUIRES(lock_) {
    uint32_t largest = retained_count_;
    for (uint32_t i = 0; i < retained_count_; ++i)
      if (largest == retained_count_ || retained_[i].bytes > retained_[largest].bytes) largest = i;
    if (largest == retained_count_ || retained_[largest].bytes < bytes / 2) return {};
    return take_out(largest);
  }

  // Nobody's from then on.
  Mapping take_out(uint32_t index) HAKMEM_REQUIRES(lock_) {
    Mapping mapping = retained_[index];
    remove_retained(index);
    table_.erase(table_.find(mapping.address));
    return mapping;
  }

  // Joins a mapping that is retained from now on with retained neighbours, if
  // they are of one origin: the kernel does not grow what it keeps as two mappings.
  Mapping merge_neighbours(Mapping mapping) HAKMEM_REQUIRES(lock_) {
    for (uint32_t i = retained_count_; i-- > 0;) {
      Mapping neighbour = retained_[i];
      bool below = neighbour.address + neighbour.bytes == mapping.address;
      if (!below && mapping.address + mapping.bytes != neighbour.address) continue;
      if (table_.find(neighbour.address)->origin != table_.find(mapping.address)->origin) continue;
      remove_retained(i);
      table_.erase(table_.find(below ? mapping.address : neighbour.address));
      mapping = {below ? neighbour.address : mapping.address, mapping.bytes + neighbour.bytes};
    }
    table_.find(mapping.address)->bytes.store(mapping.bytes, std::memory_order_relaxed);
    return mapping;
  }

  // The smallest that is large enough; retained_count_ when there is none.
  uint32_t best_retained(size_t bytes, size_t alignment) const HAKMEM_REQUIRES(lock_) {
    uint32_t best = retained_count_;
    for (uint32_t i = 0; i < retained_count_; ++i)
      if (retained_[i].bytes >= bytes && retained_[i].address % alignment == 0 &&
          (best == retained_count_ || retained_[i].bytes < retained_[best].bytes))
        best = i;
    return best;
  }

  void remove_retained(uint32_t index) HAKMEM_REQUIRES(lock_) {
    retained_bytes_ -= retained_[index].bytes;
    --retained_count_;
    for (uint32_t i = index; i < retained_count_; ++i) retained_[i] = retained_[i + 1];
  }

  // Takes about `bytes` off the end of what is retained longest, for unmap(): whole huge
  // pages, of which the kernel keeps all or nothing.
  Mapping trim_oldest(size_t bytes) HAKMEM_REQUIRES(lock_) {
    Mapping& oldest = retained_[0];
    uintptr_t end = oldest.address + oldest.bytes;
    uintptr_t cut = bytes < oldest.bytes ? align_down(end - bytes, kHugePageBytes) : 0;
    if (cut <= oldest.address) {
      released_bytes_ += oldest.bytes;
      return take_out(0);
    }
    Mapping tail{cut, end - cut};
    oldest.bytes -= tail.bytes;
    table_.find(oldest.address)->bytes.store(oldest.bytes, std::memory_order_relaxed);
    retained_bytes_ -= tail.bytes;
    released_bytes_ += tail.bytes;
    return tail;
  }

  size_t unmap(const Mapping* mappings, uint32_t count, uint32_t shard) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; ++i) {
      Memory::release(reinterpret_cast<void*>(mappings[i].address), mappings[i].bytes);
      bytes += mappings[i].bytes;
    }
    if (bytes > 0) metrics::count_purge(shard, bytes);
    return bytes;
  }

  RankedLock lock_{LockRank::kHuge};
  HugeRegion<Memory> region_ HAKMEM_GUARDED_BY(lock_);
  HugeTable<Memory> table_ HAKMEM_GUARDED_BY(lock_);
  size_t used_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t retained_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t released_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;  // unmapped lately; what is mapped again was churn
  uint64_t last_origin_ HAKMEM_GUARDED_BY(lock_) = 0;
  PurgePolicy policy_ HAKMEM_GUARDED_BY(lock_);
  uint32_t retained_count_ HAKMEM_GUARDED_BY(lock_) = 0;
  Mapping retained_[kMaxRetained] HAKMEM_GUARDED_BY(lock_){};  // oldest first
};

}  // namespace hakmem
