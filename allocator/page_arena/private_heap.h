// A heap beside the program's, for threads that are not the program's: what telemetry answers from
// must not show in the figures that it tells, nor make the program's memory another than it would be.
//
// One range of addresses, cut into chunks with a header each. Free neighbours are one chunk, which
// stands in a list of chunks of about its size. Small rather than fast: it is used while somebody scrapes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/base/lock.h"
#include "allocator/page_arena/purge_policy.h"
#include "allocator/platform/virtual_memory.h"

namespace hakmem {

template <VirtualMemory Memory>
class PrivateHeap {
 public:
  constexpr PrivateHeap() = default;

  static constexpr size_t kMostBytes = 64 * kMiB;
  static constexpr size_t kMostWhereLimited = 8 * kMiB;  // of addresses
  static constexpr size_t kAlignment = 16;

  // Takes addresses, the first time. False when there are none. Any thread.
  bool open() {
    LockGuard guard(lock_);
    if (bytes_.load(std::memory_order_relaxed) != 0) return true;
    // Where addresses are limited the program has the most of them.
    size_t limit = Memory::address_space_limit();
    size_t bytes = limit == SIZE_MAX ? kMostBytes : kMostWhereLimited;
    if (bytes > limit / kLeastShare) bytes = align_down(limit / kLeastShare, kStep);
    void* range = bytes == 0 ? nullptr : Memory::reserve(bytes, kPageBytes, 0);
    if (range == nullptr) return false;
    top_ = touched_end_ = highest_top_ = reinterpret_cast<uintptr_t>(range);
    base_.store(top_, std::memory_order_relaxed);
    bytes_.store(bytes, std::memory_order_release);  // pairs with contains()
    return true;
  }

  // Whether an address is in the range. Any thread.
  bool contains(const void* address) const {
    size_t bytes = bytes_.load(std::memory_order_acquire);  // pairs with open(): base_ is known then
    return reinterpret_cast<uintptr_t>(address) - base() < bytes;
  }
  uintptr_t base() const { return base_.load(std::memory_order_relaxed); }
  size_t bytes() const { return bytes_.load(std::memory_order_acquire); }
  // From base() on; the rest has no pages. Any thread.
  size_t committed_bytes() const { return committed_bytes_.load(std::memory_order_acquire); }

  // At least `bytes`, aligned to kAlignment and to `alignment`, a power of two; null: no memory. Any thread.
  void* allocate(size_t bytes, size_t alignment) {
    if (bytes > kMostBytes || alignment > kMostBytes) return nullptr;
    size_t needed = align_up(bytes + sizeof(Header), kAlignment);
    if (needed < sizeof(Chunk)) needed = sizeof(Chunk);
    // What may have to be cut off before the block.
    size_t slack = alignment <= kAlignment ? 0 : alignment + sizeof(Chunk);
    LockGuard guard(lock_);
    Chunk* chunk = take_listed(needed + slack);
    if (chunk == nullptr) chunk = take_from_top(needed + slack);
    if (chunk == nullptr) return nullptr;
    if (slack != 0) chunk = cut_before(chunk, alignment);
    chunk->mark = live_mark(chunk);
    if (chunk->bytes - needed >= sizeof(Chunk)) give(cut(chunk, needed));
    return block_of(chunk);
  }

  // False when no live block starts there. Any thread.
  bool free(void* address) {
    LockGuard guard(lock_);
    Chunk* chunk = live_chunk(address);
    if (chunk == nullptr) return false;
    give(chunk);
    return true;
  }

  // Of a live block, all of which may be used; 0 when none starts there. Any thread.
  size_t usable_bytes(const void* address) {
    LockGuard guard(lock_);
    const Chunk* chunk = live_chunk(address);
    return chunk == nullptr ? 0 : chunk->bytes - sizeof(Header);
  }

  // Once in a while gives the pages back that were not needed since the last time: beyond the highest end
  // of what was in use, and of large chunks that were free all the time. Any thread.
  void let_time_pass(uint64_t now_milliseconds) {
    if (bytes() == 0 || !clock_.is_due(now_milliseconds)) return;
    LockGuard guard(lock_);
    if (++seconds_ % kSecondsKept != 0) return;
    purge(highest_top_, touched_end_);
    touched_end_ = highest_top_;
    highest_top_ = top_;
    for (uint32_t list = list_of(kLeastPurged); list < kLists; ++list)
      for (Chunk* chunk = lists_[list]; chunk != nullptr; chunk = chunk->next) {
        if (chunk->mark == kFreeAllTheTime) purge(address_of(chunk) + sizeof(Chunk), address_of(chunk) + chunk->bytes);
        chunk->mark = chunk->mark == kFree ? kFreeAllTheTime : kPurged;
      }
  }

  RankedLock& lock() { return lock_; }

  // For tests: that chunks follow each other, no two free ones are neighbours, and the lists have just these.
  bool is_consistent() {
    LockGuard guard(lock_);
    uint64_t free_chunks = 0;
    uint32_t before = 0;
    for (uintptr_t address = base(); address < top_; address += before) {
      const auto* chunk = reinterpret_cast<const Chunk*>(address);
      bool follows_free = before != 0 && !reinterpret_cast<const Chunk*>(address - before)->is_live();
      if (chunk->before != before || chunk->bytes < sizeof(Chunk) || chunk->bytes > top_ - address) return false;
      if (!chunk->is_live() && (follows_free || address + chunk->bytes == top_)) return false;
      free_chunks += chunk->is_live() ? 0 : 1;
      before = chunk->bytes;
    }
    if (before != before_top_) return false;
    for (uint32_t list = 0; list < kLists; ++list)
      for (const Chunk* chunk = lists_[list]; chunk != nullptr; chunk = chunk->next, --free_chunks)
        if (chunk->is_live() || list_of(chunk->bytes) != list || free_chunks == 0) return false;
    return free_chunks == 0;
  }

 private:
  struct Header {
    uint64_t mark;    // of a live block, or kFree and what follows
    uint32_t before;  // bytes of the chunk before it; 0: it is the first
    uint32_t bytes;   // of the chunk, a multiple of kAlignment
  };
  static_assert(sizeof(Header) == kAlignment);
  struct Chunk : Header {
    Chunk* next;  // the two of a free one, in its list
    Chunk* previous;
    bool is_live() const { return this->mark == live_mark(this); }
  };

  static constexpr uint64_t kFree = 0, kFreeAllTheTime = 1, kPurged = 2;
  static constexpr size_t kStep = 256 * kKiB;        // by which the range is committed
  static constexpr size_t kLeastShare = 16;          // of what the program may map
  static constexpr uint32_t kSecondsKept = 15;       // pages that were not needed for so long go back
  static constexpr uint32_t kTried = 16;             // chunks of about the right size
  static constexpr size_t kLeastPurged = 64 * kKiB;  // of a free chunk between live ones
  // Four lists for the sizes up to each power of two.
  static constexpr uint32_t kFirstLog = log2_floor(sizeof(Chunk));
  static constexpr uint32_t kLists = (log2_floor(kMostBytes) - kFirstLog + 1) * 4;
  static_assert(kMostBytes <= UINT32_MAX);

  static uintptr_t address_of(const Chunk* chunk) { return reinterpret_cast<uintptr_t>(chunk); }
  static void* block_of(Chunk* chunk) { return reinterpret_cast<char*>(chunk) + sizeof(Header); }
  static uint64_t live_mark(const Chunk* chunk) { return ~static_cast<uint64_t>(address_of(chunk)); }
  static Chunk* at(uintptr_t address) { return reinterpret_cast<Chunk*>(address); }

  static uint32_t list_of(size_t bytes) {
    uint32_t log = log2_floor(bytes);
    return (log - kFirstLog) * 4 + (bytes >> (log - 2) & 3);
  }

  Chunk* live_chunk(const void* address) HAKMEM_REQUIRES(lock_) {
    uintptr_t block = reinterpret_cast<uintptr_t>(address);
    if (!contains(address) || block % kAlignment != 0 || block == base() || block >= top_) return nullptr;
    Chunk* chunk = at(block - sizeof(Header));
    return chunk->is_live() ? chunk : nullptr;
  }

  // A chunk that is large enough: one of the first of its size, or of the first list after that has any.
  Chunk* take_listed(size_t bytes) HAKMEM_REQUIRES(lock_) {
    uint32_t list = list_of(bytes);
    if (list >= kLists) return nullptr;
    Chunk* chunk = lists_[list];
    for (uint32_t i = 0; chunk != nullptr && chunk->bytes < bytes; chunk = ++i < kTried ? chunk->next : nullptr) {
    }
    while (chunk == nullptr && ++list < kLists) chunk = lists_[list];
    if (chunk != nullptr) unlist(chunk);
    return chunk;
  }

  Chunk* take_from_top(size_t bytes) HAKMEM_REQUIRES(lock_) {
    uintptr_t end = base() + this->bytes();
    if (bytes > end - top_) return nullptr;
    uintptr_t committed = base() + committed_bytes();
    if (bytes > committed - top_) {
      size_t more = align_up(bytes - (committed - top_), kStep);  // the range is so many of these
      if (!Memory::commit(reinterpret_cast<void*>(committed), more)) return nullptr;
      // Pairs with committed_bytes(): who sees bytes sees base_.
      committed_bytes_.store(committed_bytes() + more, std::memory_order_release);
    }
    Chunk* chunk = at(top_);
    chunk->before = before_top_;
    chunk->bytes = before_top_ = static_cast<uint32_t>(bytes);
    top_ += bytes;
    if (top_ > highest_top_) highest_top_ = top_;
    if (top_ > touched_end_) touched_end_ = top_;
    return chunk;
  }

  // Cuts a chunk in two; returns the second, which has no mark and is in no list.
  Chunk* cut(Chunk* chunk, size_t bytes) HAKMEM_REQUIRES(lock_) {
    Chunk* rest = at(address_of(chunk) + bytes);
    rest->mark = kFree;
    rest->before = static_cast<uint32_t>(bytes);
    rest->bytes = chunk->bytes - rest->before;
    chunk->bytes = rest->before;
    set_before(rest);
    return rest;
  }

  // Gives away what stands before the first place for a block of that alignment.
  Chunk* cut_before(Chunk* chunk, size_t alignment) HAKMEM_REQUIRES(lock_) {
    uintptr_t block = align_up(address_of(chunk) + sizeof(Header), alignment);
    size_t bytes = block - sizeof(Header) - address_of(chunk);
    if (bytes == 0) return chunk;
    if (bytes < sizeof(Chunk)) bytes += alignment;
    Chunk* rest = cut(chunk, bytes);
    rest->mark = live_mark(rest);  // so that what is given away does not become one with it
    give(chunk);
    return rest;
  }

  // What follows a chunk learns its size.
  void set_before(Chunk* chunk) HAKMEM_REQUIRES(lock_) {
    uintptr_t end = address_of(chunk) + chunk->bytes;
    (end == top_ ? before_top_ : at(end)->before) = chunk->bytes;
  }

  // A chunk in no list becomes free, with free neighbours, or part of what was never used.
  void give(Chunk* chunk) HAKMEM_REQUIRES(lock_) {
    chunk->mark = kFree;
    if (Chunk* after = at(address_of(chunk) + chunk->bytes); address_of(after) != top_ && !after->is_live()) {
      unlist(after);
      chunk->bytes += after->bytes;
    }
    if (Chunk* before = at(address_of(chunk) - chunk->before); before != chunk && !before->is_live()) {
      unlist(before);
      before->bytes += chunk->bytes;
      chunk = before;
      chunk->mark = kFree;
    }
    if (address_of(chunk) + chunk->bytes == top_) {
      top_ = address_of(chunk);
      before_top_ = chunk->before;
      return;
    }
    set_before(chunk);
    Chunk*& first = lists_[list_of(chunk->bytes)];
    chunk->next = first;
    chunk->previous = nullptr;
    if (first != nullptr) first->previous = chunk;
    first = chunk;
  }

  void unlist(Chunk* chunk) HAKMEM_REQUIRES(lock_) {
    (chunk->previous != nullptr ? chunk->previous->next : lists_[list_of(chunk->bytes)]) = chunk->next;
    if (chunk->next != nullptr) chunk->next->previous = chunk->previous;
  }

  // The whole pages between.
  static void purge(uintptr_t begin, uintptr_t end) {
    begin = align_up(begin, kPageBytes);
    end = align_down(end, kPageBytes);
    if (begin < end) Memory::purge(reinterpret_cast<void*>(begin), end - begin);
  }

  std::atomic<uintptr_t> base_{0};          // this and the next are written once, under the lock
  std::atomic<size_t> bytes_{0};            // 0: not open
  std::atomic<size_t> committed_bytes_{0};  // written under the lock
  DecayClock clock_;
  RankedLock lock_{LockRank::kPrivateHeap};
  uintptr_t top_ HAKMEM_GUARDED_BY(lock_) = 0;          // from here on nothing is in use
  uintptr_t touched_end_ HAKMEM_GUARDED_BY(lock_) = 0;  // and nothing has pages
  uintptr_t highest_top_ HAKMEM_GUARDED_BY(lock_) = 0;  // of this time
  uint32_t before_top_ HAKMEM_GUARDED_BY(lock_) = 0;    // bytes of the last chunk below top_
  uint32_t seconds_ HAKMEM_GUARDED_BY(lock_) = 0;       // in which time passed
  Chunk* lists_[kLists] HAKMEM_GUARDED_BY(lock_) = {};
};

}  // namespace hakmem
