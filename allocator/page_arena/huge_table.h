// The huge allocations of the process and what is retained of freed ones, by
// address: a hash table of a fixed size, so that no call pays for its growth.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/page_arena/page_arena.h"

namespace hakmem {

// Guarded by the lock of the HugeHeap, but for visit().
template <VirtualMemory Memory>
class HugeTable {
 public:
  explicit constexpr HugeTable(PageArena<Memory>& arena) : arena_(arena) {}

  // What visit() reads is written under the lock and read at any time.
  struct Entry {
    std::atomic<uintptr_t> address;  // 0: not in use
    std::atomic<size_t> bytes;
    std::atomic<size_t> requested;  // 0: retained
    uint64_t origin;                // what has the same is one mapping for the kernel
    Entry* next;                    // of its bucket, or of free_entries_
  };

  // Null when there is none that starts at `address`.
  Entry* find(uintptr_t address) const {
    if (buckets_ == nullptr) return nullptr;
    Entry* entry = bucket_of(address);
    while (entry != nullptr && entry->address.load(std::memory_order_relaxed) != address) entry = entry->next;
    return entry;
  }

  // An entry for insert(). Null when there is no memory for it.
  Entry* take() {
    if (free_entries_ == nullptr && !add_entries()) return nullptr;
    Entry* entry = free_entries_;
    free_entries_ = entry->next;
    return entry;
  }

  // Takes back an entry that is not in the table.
  void put(Entry* entry) {
    entry->address.store(0, std::memory_order_relaxed);
    entry->next = free_entries_;
    free_entries_ = entry;
  }

  void insert(Entry* entry, uintptr_t address, size_t bytes, size_t requested, uint64_t origin) {
    Entry*& bucket = bucket_of(address);
    entry->next = bucket;
    bucket = entry;
    entry->origin = origin;
    entry->bytes.store(bytes, std::memory_order_relaxed);
    entry->requested.store(requested, std::memory_order_relaxed);
    entry->address.store(address, std::memory_order_relaxed);
  }

  // Out of the table, for another insert().
  void unlink(Entry* entry) {
    Entry** link = &bucket_of(entry->address.load(std::memory_order_relaxed));
    while (*link != entry) link = &(*link)->next;
    *link = entry->next;
  }

  void erase(Entry* entry) {
    unlink(entry);
    put(entry);
  }

  // Each entry, read without the lock: one that moves, is cut or joined just now may be
  // missed or seen twice. Any thread.
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

 private:
  // Chains stay short up to some ten thousand blocks, of 1 MiB and more each.
  static constexpr uint32_t kBuckets = 1u << 13;

  struct EntryBlock {
    EntryBlock* next;
    Entry entries[51];  // 2 KiB
  };

  Entry*& bucket_of(uintptr_t address) const {
    return buckets_[(address / kPageBytes * 0x9E3779B97F4A7C15u >> 32) & (kBuckets - 1)];
  }

  bool add_entries() {
    if (buckets_ == nullptr) buckets_ = static_cast<Entry**>(arena_.allocate_metadata(kBuckets * sizeof(Entry*)));
    if (buckets_ == nullptr) return false;
    auto* block = static_cast<EntryBlock*>(arena_.allocate_metadata(sizeof(EntryBlock)));
    if (block == nullptr) return false;
    for (Entry& entry : block->entries) put(&entry);
    block->next = entry_blocks_.load(std::memory_order_relaxed);
    entry_blocks_.store(block, std::memory_order_release);  // pairs with visit()
    return true;
  }

  PageArena<Memory>& arena_;
  Entry** buckets_ = nullptr;  // made at the first use
  Entry* free_entries_ = nullptr;
  std::atomic<EntryBlock*> entry_blocks_{nullptr};
};

}  // namespace hakmem
