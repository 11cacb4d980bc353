// What is known of each block of a superslab, apart from the blocks: maps of those that came back from bins, and with
// kBlockStates a byte for each. Its pages are resident as they are used.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/base/mitigations.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

class SuperslabMaps {
 public:
  // Each unit has two maps, and slabs of at most so many blocks use the one that takes a cache line: the maps of
  // all of a superslab then stand on a page or two, and not each sixteen on a page.
  static constexpr uint32_t kFewBlocks = 512;

  // The map of a slab of so many blocks that begins at the unit. All of it is clear, as is that of every unit which is
  // free.
  static uint64_t* free_map_of(Superslab* superslab, uint32_t unit, uint32_t blocks) {
    std::byte* at = superslab->maps() + (blocks <= kFewBlocks ? unit * kSmallBytes : kLargeMapsAt + unit * kLargeBytes);
    return reinterpret_cast<uint64_t*>(at);
  }

  // With kBlockStates: whether the program has the block. A byte each, so that threads
  // that have different blocks write without a lock. `index` is that of the block.
  static bool is_live(const Slab* slab, uint64_t index) {
    return state(slab, index).load(std::memory_order_relaxed) != 0;
  }
  static void set_live(const Slab* slab, uint64_t index, bool live) {
    state(slab, index).store(live ? 1 : 0, std::memory_order_relaxed);
  }

 private:
  // The small maps of all units, their large ones, and the states. Of these the first 128 of each unit come first,
  // then the next 128 of each, and so on: slabs of blocks of 256 bytes and more have no more.
  static constexpr size_t kSmallBytes = kFewBlocks / 8;
  static constexpr size_t kLargeBytes = kFreeMapWords * sizeof(uint64_t);
  static constexpr size_t kLargeMapsAt = kUnitsPerSuperslab * kSmallBytes;
  static constexpr size_t kStatesAt = kLargeMapsAt + kUnitsPerSuperslab * kLargeBytes;
  static constexpr size_t kStatesPerUnit = has(Mitigation::kBlockStates) ? kUnitBytes / kBlockAlignment : 0;
  static constexpr size_t kStatesInTurn = 128;

  static std::atomic_ref<uint8_t> state(const Slab* slab, uint64_t index) {
    uint64_t unit = slab->start / kUnitBytes % kUnitsPerSuperslab;  // superslabs are aligned
    size_t offset = (index / kStatesInTurn * kUnitsPerSuperslab + unit) * kStatesInTurn + index % kStatesInTurn;
    return std::atomic_ref(reinterpret_cast<uint8_t*>(slab->superslab->maps())[kStatesAt + offset]);
  }

 public:
  static constexpr size_t kBytes = kStatesAt + kUnitsPerSuperslab * kStatesPerUnit;  // of a superslab
};

}  // namespace hakmem
