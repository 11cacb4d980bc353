// The shared pool: what threads hand to each other, by size class.
//
// Blocks: a thread that frees more than it allocates gives them away by the
// batch, and one that allocates more takes them: a block then crosses threads
// for an instruction or two. They count as used in their slabs.
//
// Slabs: part-full ones that no thread owns. Threads that end leave theirs here,
// and threads that refill adopt them before they take fresh memory.
//
// Of classes that many threads share all that is free passes through here.
//
// While a slab is pooled every free into it goes to its remote list; the free
// that makes it empty takes it out and retires it.
#pragma once

#include <string.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "allocator/base/lock.h"
#include "allocator/superslab/slab.h"

namespace hakmem {

class SharedPool {
 public:
  static constexpr uint32_t kMaxBlocks = 1024;  // of a class

  // What refills read of a class, in a cache line of its own.
  struct alignas(64) Class {
    std::atomic<uint32_t> block_count{0};     // written under the lock; read first, so that most refills take no lock
    std::atomic<uint32_t> slab_count{0};      // the same
    std::atomic<bool> was_taken_from{false};  // since has_idle_blocks() was asked last
  };
  // All zero at first, and large: as a variable of its own it takes no room in the library's file, and a process has
  // those of its pages that it writes to.
  struct Places {
    Class classes[kSizeClassCount]{};
    Block* blocks[kSizeClassCount][kMaxBlocks]{};  // written and moved under the lock
  };

  constexpr explicit SharedPool(Places& places) : places_(places) {}

  // The caller owns the slab and has settled it. From here on it does not; but
  // when the last of its blocks was freed meanwhile the pool does not take it.
  bool give(Slab* slab, bool is_shared) {
    LockGuard guard(lock_);
    slab->state = SlabState::Pooled;
    if (!SlabWords<Slab>::put_into_pool(*slab, slab->used)) return false;
    Class& pooled = places_.classes[slab->size_class];
    bool is_next = is_shared || slab->shape().block_bytes <= kNewestFirstBytes;
    SlabList& list = lists_[slab->size_class];
    is_next ? list.push_front(slab) : list.push_back(slab);
    pooled.slab_count.store(pooled.slab_count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return true;
  }

  // A slab for `new_owner` to refill from; null when there is none.
  Slab* take(uint32_t size_class, uintptr_t new_owner) {
    Class& pooled = places_.classes[size_class];
    if (pooled.slab_count.load(std::memory_order_relaxed) == 0) return nullptr;
    LockGuard guard(lock_);
    Slab* slab = lists_[size_class].pop_front();
    if (slab == nullptr) return nullptr;
    forget(slab);
    SlabWords<Slab>::take_from_pool(*slab, new_owner);
    return slab;
  }

  // Takes `slab` out if it is pooled and every block handed out was freed. True
  // when the caller has to retire it.
  bool take_if_empty(Slab* slab) {
    LockGuard guard(lock_);
    if (!SlabWords<Slab>::is_emptied(*slab, [slab] { return slab->used; })) return false;
    lists_[slab->size_class].remove(slab);
    forget(slab);
    // Who comes second, with the other of the last two frees, finds no pooled slab.
    SlabWords<Slab>::take_from_pool(*slab, owner::kFree);
    return true;
  }

  // Takes over as many of the blocks as there is room for, the first; returns how many. There is
  // more room for a class that many threads share; of one none while another thread is here, whose
  // refills all come here: they have other ways to be freed.
  uint32_t give_blocks(uint32_t size_class, Block* const* blocks, uint32_t count, bool is_shared) {
    Class& pooled = places_.classes[size_class];
    const uint32_t most = most_blocks(size_class, is_shared);
    if (pooled.block_count.load(std::memory_order_relaxed) >= most) return 0;
    if (!is_shared)
      lock_.lock();
    else if (!lock_.try_lock())
      return 0;
    uint32_t have = pooled.block_count.load(std::memory_order_relaxed);
    uint32_t room = most - std::min(most, have);
    if (count > room) count = room;
    memcpy(places_.blocks[size_class] + have, blocks, count * sizeof(Block*));
    pooled.block_count.store(have + count, std::memory_order_relaxed);
    lock_.unlock();
    return count;
  }

  // Moves at most `limit` blocks, the last that were given, to where they end at
  // `end`; returns how many.
  uint32_t take_blocks(uint32_t size_class, Block** end, uint32_t limit) {
    Class& pooled = places_.classes[size_class];
    if (pooled.block_count.load(std::memory_order_relaxed) == 0) return 0;
    LockGuard guard(lock_);
    uint32_t have = pooled.block_count.load(std::memory_order_relaxed);
    uint32_t count = have < limit ? have : limit;
    memcpy(end - count, places_.blocks[size_class] + have - count, count * sizeof(Block*));
    pooled.block_count.store(have - count, std::memory_order_relaxed);
    pooled.was_taken_from.store(true, std::memory_order_relaxed);
    return count;
  }

  // True when blocks are pooled that nobody took from since the last call.
  bool has_idle_blocks(uint32_t size_class) {
    Class& pooled = places_.classes[size_class];
    return !pooled.was_taken_from.exchange(false, std::memory_order_relaxed) &&
           pooled.block_count.load(std::memory_order_relaxed) != 0;
  }

  uint32_t pooled_blocks(uint32_t size_class) const {
    return places_.classes[size_class].block_count.load(std::memory_order_relaxed);
  }

  // Whether the block is pooled; a guess while others give and take.
  __attribute__((no_sanitize("thread"))) bool has_block(uint32_t size_class,
                                                        const Block* block) const HAKMEM_NO_THREAD_ANALYSIS {
    for (uint32_t i = 0; i < pooled_blocks(size_class); ++i)
      if (places_.blocks[size_class][i] == block) return true;
    return false;
  }

  // The blocks that wait here, while no other thread runs.
  template <class Visit>
  void visit_blocks(uint32_t size_class, Visit visit) const HAKMEM_NO_THREAD_ANALYSIS {
    for (uint32_t i = 0; i < pooled_blocks(size_class); ++i) visit(places_.blocks[size_class][i]);
  }

  RankedLock& lock() { return lock_; }

  // With no call under way.
  bool is_consistent() const HAKMEM_NO_THREAD_ANALYSIS {
    for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
      uint32_t count = 0;
      for (Slab* slab = lists_[size_class].first(); slab != nullptr; slab = slab->next, ++count)
        if (slab->state != SlabState::Pooled || slab->size_class != size_class || !slab->is_consistent()) return false;
      if (count != places_.classes[size_class].slab_count.load(std::memory_order_relaxed)) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kMaxBytes = 64 * kKiB;  // of a class
  static constexpr size_t kMaxSharedBytes = 512 * kKiB;
  // Slabs of blocks above this size come in the order in which they were given, where threads do not share the class:
  // they may have had hardly a free block then, and others free into them meanwhile.
  static constexpr size_t kNewestFirstBytes = 1 * kKiB;

  static uint32_t most_blocks(uint32_t size_class, bool is_shared) {
    size_t blocks = (is_shared ? kMaxSharedBytes : kMaxBytes) / kClassShapes[size_class].block_bytes;
    return static_cast<uint32_t>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
  }

  void forget(Slab* slab) HAKMEM_REQUIRES(lock_) {
    std::atomic<uint32_t>& count = places_.classes[slab->size_class].slab_count;
    count.store(count.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
  }

  RankedLock lock_{LockRank::kSharedPool};
  SlabList lists_[kSizeClassCount] HAKMEM_GUARDED_BY(lock_){};
  Places& places_;
};

}  // namespace hakmem
