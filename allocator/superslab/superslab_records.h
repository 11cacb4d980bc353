// The records of superslabs: where they stand, and all of them in the order in which they
// were made.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/page_arena/page_arena.h"
#include "allocator/superslab/superslab.h"
#include "allocator/superslab/superslab_maps.h"

namespace hakmem {

// Guarded by the lock of the SuperslabHeap, but for visit().
template <VirtualMemory Memory>
class SuperslabRecords {
 public:
  // Sees to it that there is a record to take; false when there is no memory for one.
  bool prepare(PageArena<Memory>& arena) {
    return spare_count_ != 0 || add(arena, made_count_ < kBatch ? 1 : kBatch) || add(arena, 1);
  }

  // After prepare(). All zero, but for where its maps stand.
  Superslab* take() {
    HAKMEM_ASSERT(spare_count_ != 0);
    Superslab* superslab = spare_++;
    --spare_count_;
    // The maps of the batch stand behind its records, in their order.
    size_t offset = spare_count_ * sizeof(Superslab) + (batch_ - spare_count_ - 1) * SuperslabMaps::kBytes;
    superslab->maps_at = static_cast<uint16_t>((sizeof(Superslab) + offset) / alignof(Superslab));
    return superslab;
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
  // So many stand next to each other, as who looks at all superslabs looks at their records alone. Of the
  // first few each stands before its maps, in one page with the start of them: in a small process no
  // page is used more. A chunk of metadata is made for one batch, a later one for four, and holds little else.
  static constexpr uint32_t kBatch = has(Mitigation::kBlockStates) ? 13 : 25;
  static constexpr size_t kBatchChunkBytes = has(Mitigation::kBlockStates) ? 2 * kMiB : 512 * kKiB;
  static constexpr size_t kRecordBytes = sizeof(Superslab) + SuperslabMaps::kBytes;
  static_assert(kBatch * kRecordBytes <= kBatchChunkBytes && (kBatch + 1) * kRecordBytes > kBatchChunkBytes);
  static_assert(SuperslabMaps::kBytes % alignof(Superslab) == 0 &&
                kBatch * kRecordBytes / alignof(Superslab) <= UINT16_MAX);

  bool add(PageArena<Memory>& arena, uint32_t count) {
    void* memory = arena.allocate_metadata(count * kRecordBytes);
    if (memory == nullptr) return false;
    spare_ = static_cast<Superslab*>(memory);
    spare_count_ = batch_ = count;
    return true;
  }

  Superslab* spare_ = nullptr;
  uint32_t spare_count_ = 0;
  uint32_t batch_ = 0;  // how many stand side by side with them
  uint32_t made_count_ = 0;
  Superslab* last_ = nullptr;
  std::atomic<Superslab*> first_{nullptr};  // written once
};

}  // namespace hakmem
