// The records of superslabs: where they stand, and all of them in the order in which they
// were made.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

// Guarded by the lock of the SuperslabHeap, but for visit().
template <VirtualMemory Memory>
class SuperslabRecords {
 public:
  struct Record {
    Superslab* superslab;  // all zero
    uint64_t* free_maps;   // of its slabs, kUnitMapWords each; pages of them are used as these take blocks back
  };

  // Sees to it that there is a record to take; false when there is no memory for one.
  bool prepare(PageArena<Memory>& arena) {
    return spare_count_ != 0 || add(arena, made_count_ < kBatch ? 1 : kBatch) || add(arena, 1);
  }

  // After prepare().
  Record take() {
    HAKMEM_ASSERT(spare_count_ != 0);
    Record record{spare_++, spare_maps_};
    spare_maps_ += kMapWords;
    --spare_count_;
    return record;
  }

  // The superslab is mapped, and what is constant in its record is set.
  void show(Superslab* superslab) {
    ++made_count_;
    // Release pairs with the acquires of visit().
    (last_ != nullptr ? last_->next_made : first_).store(superslab, std::memory_order_release);
    last_ = superslab;
  }

  // Those that are released now, too. Any thread, no lock.
  template <class Visit>
  void visit(Visit visit) const {
    for (const Superslab* superslab = first_.load(std::memory_order_acquire); superslab != nullptr;
         superslab = superslab->next_made.load(std::memory_order_acquire))
      visit(*superslab);
  }

 private:
  static constexpr size_t kMapWords = size_t{kUnitsPerSuperslab} * kUnitMapWords;
  // So many stand next to each other, as who looks at all superslabs looks at their records alone. Of the
  // first few each stands before its maps, in one page with the start of them: in a small process no
  // page is used more.
  static constexpr uint32_t kBatch = has(Mitigation::kBlockStates) ? 8 : 32;

  bool add(PageArena<Memory>& arena, uint32_t count) {
    void* memory = arena.allocate_metadata(count * (sizeof(Superslab) + kMapWords * sizeof(uint64_t)));
    if (memory == nullptr) return false;
    spare_ = static_cast<Superslab*>(memory);
    spare_maps_ = reinterpret_cast<uint64_t*>(spare_ + count);
    spare_count_ = count;
    return true;
  }

  Superslab* spare_ = nullptr;
  uint64_t* spare_maps_ = nullptr;
  uint32_t spare_count_ = 0;
  uint32_t made_count_ = 0;
  Superslab* last_ = nullptr;
  std::atomic<Superslab*> first_{nullptr};  // written once
};

}  // namespace hakmem
