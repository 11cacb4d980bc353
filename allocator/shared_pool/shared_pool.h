// The shared pool: part-full slabs that no thread owns, by size class. Threads
// that end leave theirs here, and threads that refill adopt them before they
// take fresh memory.
//
// While a slab is pooled every free into it goes to its remote list; the free
// that makes it empty takes it out and retires it.
#pragma once

#include <atomic>
#include <cstdint>

#include "allocator/base/lock.h"
#include "allocator/superslab/slab.h"

namespace hakmem {

class SharedPool {
 public:
  constexpr SharedPool() = default;

  // The caller owns the slab and has settled it. From here on it does not; but
  // when the last of its blocks was freed meanwhile the pool does not take it.
  bool give(Slab* slab) {
    LockGuard guard(lock_);
    uintptr_t giver = slab->owner.load(std::memory_order_relaxed);
    slab->state = SlabState::Pooled;
    // Sequentially consistent with push_remote(): either we see the last push,
    // or the pusher sees that the slab is pooled.
    slab->owner.store(owner::kPooled, std::memory_order_seq_cst);
    if (RemoteList::count(slab->remote.load(std::memory_order_seq_cst)) == slab->used) {
      slab->owner.store(giver, std::memory_order_relaxed);
      return false;
    }
    lists_[slab->size_class].push_front(slab);
    counts_[slab->size_class].store(counts_[slab->size_class].load(std::memory_order_relaxed) + 1,
                                    std::memory_order_relaxed);
    return true;
  }

  // A slab for `new_owner` to refill from; null when there is none.
  Slab* take(uint32_t size_class, uintptr_t new_owner) {
    if (counts_[size_class].load(std::memory_order_relaxed) == 0) return nullptr;
    LockGuard guard(lock_);
    Slab* slab = lists_[size_class].pop_front();
    if (slab == nullptr) return nullptr;
    forget(slab);
    slab->owner.store(new_owner, std::memory_order_relaxed);
    return slab;
  }

  // Takes `slab` out if it is pooled and every block handed out was freed. True
  // when the caller has to retire it.
  bool take_if_empty(Slab* slab) {
    LockGuard guard(lock_);
    if (slab->owner.load(std::memory_order_relaxed) != owner::kPooled) return false;
    // Acquire pairs with the pushes of remote frees: they are over.
    if (RemoteList::count(slab->remote.load(std::memory_order_acquire)) != slab->used) return false;
    lists_[slab->size_class].remove(slab);
    forget(slab);
    // Who comes second, with the other of the last two frees, finds no pooled slab.
    slab->owner.store(owner::kFree, std::memory_order_relaxed);
    return true;
  }

  RankedLock& lock() { return lock_; }

  // With no call under way.
  bool is_consistent() const HAKMEM_NO_THREAD_ANALYSIS {
    for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
      uint32_t count = 0;
      for (Slab* slab = lists_[size_class].first(); slab != nullptr; slab = slab->next, ++count)
        if (slab->state != SlabState::Pooled || slab->size_class != size_class || !slab->is_consistent()) return false;
      if (count != counts_[size_class].load(std::memory_order_relaxed)) return false;
    }
    return true;
  }

 private:
  void forget(Slab* slab) HAKMEM_REQUIRES(lock_) {
    counts_[slab->size_class].store(counts_[slab->size_class].load(std::memory_order_relaxed) - 1,
                                    std::memory_order_relaxed);
  }

  RankedLock lock_{LockRank::kSharedPool};
  SlabList lists_[kSizeClassCount] HAKMEM_GUARDED_BY(lock_){};
  std::atomic<uint32_t>
      counts_[kSizeClassCount]{};  // written under lock_; read first, so that most refills take no lock
};

}  // namespace hakmem
