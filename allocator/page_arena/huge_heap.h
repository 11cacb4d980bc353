// Huge allocations: each a mapping of its own, known by its address in a hash
// table whose size is fixed, so that no call pays for its growth.
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
#include "allocator/metrics/heap_view.h"
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
    Entry* entry = nullptr;
    {
      LockGuard guard(lock_);
      entry = take_entry();
      if (entry == nullptr) return {nullptr, false};
      if (uintptr_t reused = take_retained(mapped, bytes, alignment, entry); reused != 0) {
        metrics::count<metrics::Metric::kHugeAllocations>(shard);
        return {reinterpret_cast<void*>(reused), false};
      }
      if (alignment <= kPageBytes) grown = take_largest(mapped);
    }
    void* address = nullptr;
    if (grown.bytes != 0) {
      address = Memory::remap(reinterpret_cast<void*>(grown.address), grown.bytes, mapped);
      if (address == nullptr) {
        unmap(&grown, 1, shard);  // under a limit, the addresses may be what is missing
        grown = {};
      }
    }
    if (address == nullptr) {
      size_t least = mapped >= kHugePagesFrom ? kHugePageBytes : kPageBytes;
      address = Memory::map(mapped, alignment < least ? least : alignment);
    }
    if (address != nullptr) allow_huge_pages(address, grown.bytes, mapped);
    LockGuard guard(lock_);
    if (address == nullptr) {
      put_entry(entry);
      return {nullptr, false};
    }
    insert(entry, {reinterpret_cast<uintptr_t>(address), mapped}, bytes, ++last_origin_);
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

  // Resizes by mremap. Null when the kernel refuses; then nothing changed. The
  // block must be live. Any thread.
  void* resize(void* address, size_t bytes, uint32_t shard) {
    size_t mapped = align_up(bytes, kPageBytes);
    LockGuard guard(lock_);
    Entry* entry = find(reinterpret_cast<uintptr_t>(address));
    if (entry == nullptr || entry->requested.load(std::memory_order_relaxed) == 0) return nullptr;
    size_t old_mapped = entry->bytes.load(std::memory_order_relaxed);
    const void* old_address = address;
    if (mapped != old_mapped) {
      void* moved = Memory::remap(address, old_mapped, mapped);
      if (moved == nullptr) return nullptr;
      allow_huge_pages(moved, old_mapped, mapped);
      used_bytes_ += mapped - old_mapped;
      metrics::count<metrics::Metric::kHugeRemaps>(shard);
      if (moved == address) {
        entry->bytes.store(mapped, std::memory_order_relaxed);
        entry->origin = ++last_origin_;
      } else {
        unlink(entry);
        insert(entry, {reinterpret_cast<uintptr_t>(moved), mapped}, bytes, ++last_origin_);
        address = moved;
      }
    }
    entry->requested.store(bytes, std::memory_order_relaxed);
    if constexpr (kBuild.stats) {
      // Under the lock: nobody has the old address for a new block yet.
      if (metrics::hooks.on_sample_resize != nullptr)
        metrics::hooks.on_sample_resize(old_address, address, bytes, mapped);
    }
    return address;
  }

  // Bytes mapped for a live huge allocation; 0 for any other address. Any thread.
  size_t usable_bytes(const void* address) {
    LockGuard guard(lock_);
    Entry* entry = find(reinterpret_cast<uintptr_t>(address));
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
    }
    return unmap(victims, victim_count, shard);
  }

  // Each mapping, live (requested > 0) or retained; read without the lock, so
  // that one which moves, is cut or merged just now may be missed or seen twice. Any thread.
  template <class Visit>
  void visit(Visit visit) const {
    const EntryBlock* block = entry_blocks_.load(std::memory_order_acquire);  // pairs with add_entries()
    for (; block != nullptr; block = block->next)
      for (const Entry& entry : block->entries) {
        uintptr_t address = entry.address.load(std::memory_order_relaxed);
        if (address != 0)
          visit(address, entry.bytes.load(std::memory_order_relaxed), entry.requested.load(std::memory_order_relaxed));
      }
  }

  // Bytes retained while `used` are live. Any thread.
  size_t hold_back(size_t used) const HAKMEM_NO_THREAD_ANALYSIS { return policy_.hold_back(used); }
  RankedLock& lock() { return lock_; }
  size_t retained_bytes() {
    LockGuard guard(lock_);
    return retained_bytes_;
  }

 private:
  static constexpr size_t kHugePagesFrom = 4 * kMiB;  // of one mapping; the first touch of 2 MiB then takes all of them
  static constexpr uint32_t kMaxRetained = 32;
  static constexpr size_t kDecayBytes = 16 * kMiB;  // a second, so that no call takes long

  // Chains stay short up to some ten thousand blocks, of 1 MiB and more each.
  static constexpr uint32_t kBuckets = 1u << 13;

  // What visit() reads is written under lock_ and read at any time; the rest is under lock_.
  struct Entry {
    std::atomic<uintptr_t> address;  // 0: not in use
    std::atomic<size_t> bytes;
    std::atomic<size_t> requested;  // 0: retained
    uint64_t origin;                // the pieces of one mapping have the same
    Entry* next;                    // of its bucket, or of free_entries_
  };
  struct EntryBlock {
    EntryBlock* next;
    Entry entries[51];  // 2 KiB
  };
  struct Mapping {
    uintptr_t address;
    size_t bytes;
  };

  // Once, of a mapping that has become large enough.
  static void allow_huge_pages(void* address, size_t old_bytes, size_t bytes) {
    if (old_bytes < kHugePagesFrom && bytes >= kHugePagesFrom) Memory::allow_huge_pages(address, bytes, true);
  }

  Entry*& bucket_of(uintptr_t address) HAKMEM_REQUIRES(lock_) {
    return buckets_[(address / kPageBytes * 0x9E3779B97F4A7C15u >> 32) & (kBuckets - 1)];
  }

  Entry* find(uintptr_t address) HAKMEM_REQUIRES(lock_) {
    if (buckets_ == nullptr) return nullptr;
    Entry* entry = bucket_of(address);
    while (entry != nullptr && entry->address.load(std::memory_order_relaxed) != address) entry = entry->next;
    return entry;
  }

  void insert(Entry* entry, Mapping mapping, size_t requested, uint64_t origin) HAKMEM_REQUIRES(lock_) {
    Entry*& bucket = bucket_of(mapping.address);
    entry->next = bucket;
    bucket = entry;
    entry->origin = origin;
    entry->bytes.store(mapping.bytes, std::memory_order_relaxed);
    entry->requested.store(requested, std::memory_order_relaxed);
    entry->address.store(mapping.address, std::memory_order_relaxed);
  }

  void unlink(Entry* entry) HAKMEM_REQUIRES(lock_) {
    Entry** link = &bucket_of(entry->address.load(std::memory_order_relaxed));
    while (*link != entry) link = &(*link)->next;
    *link = entry->next;
  }

  void erase(Entry* entry) HAKMEM_REQUIRES(lock_) {
    unlink(entry);
    put_entry(entry);
  }

  // Null when there is no memory for it.
  Entry* take_entry() HAKMEM_REQUIRES(lock_) {
    if (free_entries_ == nullptr && !add_entries()) return nullptr;
    Entry* entry = free_entries_;
    free_entries_ = entry->next;
    return entry;
  }

  void put_entry(Entry* entry) HAKMEM_REQUIRES(lock_) {
    entry->address.store(0, std::memory_order_relaxed);
    entry->next = free_entries_;
    free_entries_ = entry;
  }

  bool add_entries() HAKMEM_REQUIRES(lock_) {
    if (buckets_ == nullptr) buckets_ = static_cast<Entry**>(arena_.allocate_metadata(kBuckets * sizeof(Entry*)));
    if (buckets_ == nullptr) return false;
    auto* block = static_cast<EntryBlock*>(arena_.allocate_metadata(sizeof(EntryBlock)));
    if (block == nullptr) return false;
    for (Entry& entry : block->entries) put_entry(&entry);
    block->next = entry_blocks_.load(std::memory_order_relaxed);
    entry_blocks_.store(block, std::memory_order_release);  // pairs with visit()
    return true;
  }

  // The smallest retained mapping that is large enough, without what it has
  // over, unless that is less than an eighth. `spare` is for that, or goes back. 0 when there is none.
  uintptr_t take_retained(size_t bytes, size_t requested, size_t alignment, Entry* spare) HAKMEM_REQUIRES(lock_) {
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
      insert(spare, mapping, 0, entry->origin);
      retained_bytes_ -= bytes;
      used_bytes_ += bytes;
    } else {
      put_entry(spare);
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
    if (bytes > 0) metrics::count_purge(shard, bytes);
    return bytes;
  }

  PageArena<Memory>& arena_;
  RankedLock lock_{LockRank::kHuge};
  Entry** buckets_ HAKMEM_GUARDED_BY(lock_) = nullptr;  // made at the first use
  Entry* free_entries_ HAKMEM_GUARDED_BY(lock_) = nullptr;
  std::atomic<EntryBlock*> entry_blocks_{nullptr};  // written under lock_
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
