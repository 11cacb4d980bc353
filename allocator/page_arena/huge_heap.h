// Huge allocations: each a mapping of its own, known by its address in a table.
//
// A freed mapping is retained for a while, within the hold-back of PurgePolicy:
// page faults cost far more than anything that is done here to avoid them. A
// request takes the retained mapping that fits best and leaves what it does not
// need; where none is large enough, the largest is grown, and the kernel moves
// its pages. Neighbours that were cut from one mapping are one again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/base/lock.h"
#include "allocator/metrics/counters.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/page_arena/purge_policy.h"

namespace hakmem {

template <VirtualMemory Memory>
class HugeHeap {
 public:
  explicit constexpr HugeHeap(PageArena<Memory>& arena) : arena_(arena) {}

  struct Allocation {
    void* address;  // null: the kernel gave no memory
    bool zeroed;
  };

  // `bytes` is not 0 and below PTRDIFF_MAX; `alignment` is a power of two. Any thread.
  Allocation allocate(size_t bytes, size_t alignment, uint32_t shard) {
    size_t mapped = align_up(bytes, kPageBytes);
    Mapping grown{};
    {
      LockGuard guard(lock_);
      // Room for the block, or for what it leaves of a retained mapping.
      if (!make_room()) return {nullptr, false};
      if (uintptr_t reused = take_retained(mapped, bytes, alignment); reused != 0) {
        metrics::count<metrics::Metric::kHugeAllocations>(shard);
        return {reinterpret_cast<void*>(reused), false};
      }
      if (alignment <= kPageBytes) grown = take_largest(mapped);
      ++reserved_entries_;  // nobody else takes the room while the lock is open
    }
    void* address = nullptr;
    if (grown.bytes != 0) {
      address = Memory::remap(reinterpret_cast<void*>(grown.address), grown.bytes, mapped);
      if (address == nullptr) {
        unmap(&grown, 1, shard);  // under a limit, the addresses may be what is missing
        grown = {};
      }
    }
    if (address == nullptr) address = Memory::map(mapped, alignment < kPageBytes ? kPageBytes : alignment);
    LockGuard guard(lock_);
    --reserved_entries_;
    if (address == nullptr) return {nullptr, false};
    insert(reinterpret_cast<uintptr_t>(address), mapped, bytes, ++last_origin_);
    used_bytes_ += mapped;
    size_t fresh = mapped - grown.bytes;
    size_t again = fresh < released_bytes_ ? fresh : released_bytes_;
    released_bytes_ -= again;
    policy_.taken_again(again, used_bytes_);
    metrics::count<metrics::Metric::kHugeAllocations>(shard);
    return {address, grown.bytes == 0};
  }

  // False when `address` is not that of a live huge allocation. Any thread.
  bool free(void* address, uint32_t shard) {
    Mapping victims[kMaxRetained + 1];
    uint32_t victim_count = 0;
    {
      LockGuard guard(lock_);
      Entry* entry = find(reinterpret_cast<uintptr_t>(address));
      if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return false;
      size_t bytes = entry->bytes.load(std::memory_order_relaxed);
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

  // Resizes by mremap. Null when the kernel refuses; then nothing changed. The
  // block must be live. Any thread.
  void* resize(void* address, size_t bytes, uint32_t shard) {
    size_t mapped = align_up(bytes, kPageBytes);
    LockGuard guard(lock_);
    Entry* entry = find(reinterpret_cast<uintptr_t>(address));
    if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return nullptr;
    size_t old_mapped = entry->bytes.load(std::memory_order_relaxed);
    if (mapped != old_mapped) {
      void* moved = Memory::remap(address, old_mapped, mapped);
      if (moved == nullptr) return nullptr;
      used_bytes_ += mapped - old_mapped;
      metrics::count<metrics::Metric::kHugeRemaps>(shard);
      if (moved == address) {
        entry->bytes.store(mapped, std::memory_order_relaxed);
        entry->origin = ++last_origin_;
      } else {
        erase(entry);
        entry = insert(reinterpret_cast<uintptr_t>(moved), mapped, bytes, ++last_origin_);
        address = moved;
      }
    }
    entry->requested.store(bytes, std::memory_order_relaxed);
    return address;
  }

  // Bytes mapped for a live huge allocation; 0 for any other address. Any thread.
  size_t usable_bytes(const void* address) {
    LockGuard guard(lock_);
    Entry* entry = find(reinterpret_cast<uintptr_t>(address));
    if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return 0;
    return entry->bytes.load(std::memory_order_relaxed);
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
    }
    return unmap(victims, victim_count, shard);
  }

  // Each mapping, live (requested > 0) or retained; read without the lock, so
  // that one which moves, is cut or merged just now may be missed or seen twice. Any thread.
  template <class Visit>
  void visit(Visit visit) const {
    const Table* table = table_.load(std::memory_order_acquire);  // pairs with make_room()
    if (table == nullptr) return;
    for (size_t i = 0; i < table->capacity; ++i) {
      const Entry& entry = table->entries[i];
      uintptr_t address = entry.address.load(std::memory_order_relaxed);
      if (address != 0)
        visit(address, entry.bytes.load(std::memory_order_relaxed), entry.requested.load(std::memory_order_relaxed));
    }
  }

  RankedLock& lock() { return lock_; }

 private:
  static constexpr uint32_t kMaxRetained = 32;
  static constexpr size_t kDecayBytes = 16 * kMiB;  // a second, so that no call takes long

  // Written under lock_, read by visit() at any time.
  struct Entry {
    std::atomic<uintptr_t> address;  // 0: empty
    std::atomic<size_t> bytes;
    std::atomic<size_t> requested;  // 0: retained
    uint64_t origin;                // under lock_; the pieces of one mapping have the same
  };
  struct Table {
    size_t capacity;  // a power of two
    Entry* entries;
  };
  struct Mapping {
    uintptr_t address;
    size_t bytes;
  };

  static size_t slot_of(uintptr_t address, size_t capacity) {
    return (address / kPageBytes * 0x9E3779B97F4A7C15u >> 32) & (capacity - 1);
  }

  Entry* find(uintptr_t address) HAKMEM_REQUIRES(lock_) {
    Table* table = table_.load(std::memory_order_relaxed);
    if (table == nullptr || address == 0) return nullptr;
    for (size_t i = slot_of(address, table->capacity);; i = (i + 1) & (table->capacity - 1)) {
      uintptr_t found = table->entries[i].address.load(std::memory_order_relaxed);
      if (found == address) return &table->entries[i];
      if (found == 0) return nullptr;
    }
  }

  Entry* insert(uintptr_t address, size_t bytes, size_t requested, uint64_t origin) HAKMEM_REQUIRES(lock_) {
    Table* table = table_.load(std::memory_order_relaxed);
    Entry* entry = insert_into(*table, address, bytes, requested, origin);
    ++entry_count_;
    return entry;
  }

  static Entry* insert_into(Table& table, uintptr_t address, size_t bytes, size_t requested, uint64_t origin) {
    size_t i = slot_of(address, table.capacity);
    while (table.entries[i].address.load(std::memory_order_relaxed) != 0) i = (i + 1) & (table.capacity - 1);
    table.entries[i].origin = origin;
    table.entries[i].bytes.store(bytes, std::memory_order_relaxed);
    table.entries[i].requested.store(requested, std::memory_order_relaxed);
    table.entries[i].address.store(address, std::memory_order_release);
    return &table.entries[i];
  }

  // Linear probing without tombstones: what follows moves up into the gap.
  void erase(Entry* entry) HAKMEM_REQUIRES(lock_) {
    Table* table = table_.load(std::memory_order_relaxed);
    size_t mask = table->capacity - 1;
    size_t gap = static_cast<size_t>(entry - table->entries);
    for (size_t i = (gap + 1) & mask;; i = (i + 1) & mask) {
      Entry& candidate = table->entries[i];
      uintptr_t address = candidate.address.load(std::memory_order_relaxed);
      if (address == 0) break;
      size_t home = slot_of(address, table->capacity);
      if (((i - home) & mask) < ((i - gap) & mask)) continue;  // would land before its home
      Entry& target = table->entries[gap];
      target.origin = candidate.origin;
      target.bytes.store(candidate.bytes.load(std::memory_order_relaxed), std::memory_order_relaxed);
      target.requested.store(candidate.requested.load(std::memory_order_relaxed), std::memory_order_relaxed);
      target.address.store(address, std::memory_order_relaxed);
      gap = i;
    }
    table->entries[gap].address.store(0, std::memory_order_relaxed);
    --entry_count_;
  }

  // Room for one more entry besides those that are promised. The old table
  // stays behind for readers; all old tables together are smaller than the new one.
  bool make_room() HAKMEM_REQUIRES(lock_) {
    Table* table = table_.load(std::memory_order_relaxed);
    size_t capacity = table == nullptr ? 0 : table->capacity;
    if (entry_count_ + reserved_entries_ + 1 <= capacity * 3 / 4) return true;
    size_t grown = capacity == 0 ? 64 : capacity * 2;
    auto* created = static_cast<Table*>(arena_.allocate_metadata(sizeof(Table)));
    auto* entries = static_cast<Entry*>(arena_.allocate_metadata(grown * sizeof(Entry)));
    if (created == nullptr || entries == nullptr) return false;
    *created = {grown, entries};
    for (size_t i = 0; i < capacity; ++i) {
      const Entry& entry = table->entries[i];
      uintptr_t address = entry.address.load(std::memory_order_relaxed);
      if (address != 0)
        insert_into(*created, address, entry.bytes.load(std::memory_order_relaxed),
                    entry.requested.load(std::memory_order_relaxed), entry.origin);
    }
    table_.store(created, std::memory_order_release);
    return true;
  }

  // The smallest retained mapping that is large enough, without what it has
  // over, unless that is less than an eighth. Needs room for an entry. 0 when there is none.
  uintptr_t take_retained(size_t bytes, size_t requested, size_t alignment) HAKMEM_REQUIRES(lock_) {
    uint32_t best = retained_count_;
    for (uint32_t i = 0; i < retained_count_; ++i)
      if (retained_[i].bytes >= bytes && retained_[i].address % alignment == 0 &&
          (best == retained_count_ || retained_[i].bytes < retained_[best].bytes))
        best = i;
    if (best == retained_count_) return 0;
    Mapping& mapping = retained_[best];
    uintptr_t address = mapping.address;
    Entry* entry = find(address);
    entry->requested.store(requested, std::memory_order_relaxed);
    size_t rest = mapping.bytes - bytes;
    if (rest > bytes / 8) {
      entry->bytes.store(bytes, std::memory_order_relaxed);
      mapping = {address + bytes, rest};
      insert(mapping.address, rest, 0, entry->origin);
      retained_bytes_ -= bytes;
      used_bytes_ += bytes;
    } else {
      used_bytes_ += mapping.bytes;
      remove_retained(best);
    }
    return address;
  }

  // The largest retained mapping, which is nobody's then, to be grown to `bytes`.
  // None of less than half of that: `calloc` has to clear what is not fresh.
  Mapping take_largest(size_t bytes) HAKMEM_REQUIRES(lock_) {
    uint32_t largest = retained_count_;
    for (uint32_t i = 0; i < retained_count_; ++i)
      if (largest == retained_count_ || retained_[i].bytes > retained_[largest].bytes) largest = i;
    if (largest == retained_count_ || retained_[largest].bytes < bytes / 2) return {};
    Mapping mapping = retained_[largest];
    remove_retained(largest);
    erase(find(mapping.address));
    return mapping;
  }

  // Joins a mapping that is retained from now on with retained neighbours, if
  // they are of one origin: the kernel does not grow what it keeps as two mappings.
  Mapping merge_neighbours(Mapping mapping) HAKMEM_REQUIRES(lock_) {
    for (uint32_t i = retained_count_; i-- > 0;) {
      Mapping neighbour = retained_[i];
      bool below = neighbour.address + neighbour.bytes == mapping.address;
      if (!below && mapping.address + mapping.bytes != neighbour.address) continue;
      if (find(neighbour.address)->origin != find(mapping.address)->origin) continue;
      remove_retained(i);
      erase(find(below ? mapping.address : neighbour.address));
      mapping = {below ? neighbour.address : mapping.address, mapping.bytes + neighbour.bytes};
    }
    find(mapping.address)->bytes.store(mapping.bytes, std::memory_order_relaxed);
    return mapping;
  }

  void remove_retained(uint32_t index) HAKMEM_REQUIRES(lock_) {
    retained_bytes_ -= retained_[index].bytes;
    --retained_count_;
    for (uint32_t i = index; i < retained_count_; ++i) retained_[i] = retained_[i + 1];
  }

  // Takes up to `bytes` off the end of what is retained longest, for unmap().
  Mapping trim_oldest(size_t bytes) HAKMEM_REQUIRES(lock_) {
    Mapping& oldest = retained_[0];
    if (bytes > oldest.bytes - kPageBytes) {
      Mapping whole = oldest;
      remove_retained(0);
      erase(find(whole.address));
      released_bytes_ += whole.bytes;
      return whole;
    }
    bytes = align_up(bytes, kPageBytes);
    oldest.bytes -= bytes;
    find(oldest.address)->bytes.store(oldest.bytes, std::memory_order_relaxed);
    retained_bytes_ -= bytes;
    released_bytes_ += bytes;
    return {oldest.address + oldest.bytes, bytes};
  }

  size_t unmap(const Mapping* mappings, uint32_t count, uint32_t shard) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; ++i) {
      Memory::release(reinterpret_cast<void*>(mappings[i].address), mappings[i].bytes);
      bytes += mappings[i].bytes;
    }
    if (bytes > 0) {
      metrics::count<metrics::Metric::kPurgeRuns>(shard);
      metrics::count<metrics::Metric::kPurgedBytes>(shard, uint64_t{bytes});
    }
    return bytes;
  }

  PageArena<Memory>& arena_;
  RankedLock lock_{LockRank::kHuge};
  std::atomic<Table*> table_{nullptr};  // written under lock_
  size_t entry_count_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t reserved_entries_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t used_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t retained_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;
  size_t released_bytes_ HAKMEM_GUARDED_BY(lock_) = 0;  // unmapped lately; what is mapped again was churn
  uint64_t last_origin_ HAKMEM_GUARDED_BY(lock_) = 0;
  // More than elsewhere: few blocks whose sizes vary fit each other badly, and they are often touched in part only.
  PurgePolicy policy_ HAKMEM_GUARDED_BY(lock_){6};
  uint32_t retained_count_ HAKMEM_GUARDED_BY(lock_) = 0;
  Mapping retained_[kMaxRetained] HAKMEM_GUARDED_BY(lock_){};  // oldest first
};

}  // namespace hakmem
