// The blocks that a thread has freed lately: each free of a class puts its block
// in and takes another out, which may be handed out again from then on. It has
// waited for at least half as many frees as the class has places, and with
// kRandomReuse nobody can tell for how many more.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/mitigations.h"
#include "allocator/platform/random.h"
#include "allocator/superslab/slab.h"

namespace hakmem {

struct QuarantineShape {
  uint32_t first;   // place of the class
  uint32_t places;  // 1 for large blocks: what a thread keeps is bounded
};

inline constexpr size_t kQuarantineBytes = 8 * kKiB;  // of a class: what all of them hold should stay in the cache
inline constexpr uint32_t kMaxQuarantined = 64;

inline constexpr auto kQuarantineShapes = [] {
  std::array<QuarantineShape, kSizeClassCount> shapes{};
  uint32_t next = 0;
  for (uint32_t i = 0; i < kSizeClassCount; ++i) {
    size_t places = kQuarantineBytes / kClassShapes[i].block_bytes;
    if (places > kMaxQuarantined) places = kMaxQuarantined;
    if (places < 1) places = 1;
    shapes[i] = {next, static_cast<uint32_t>(places)};
    next += static_cast<uint32_t>(places);
  }
  return shapes;
}();
inline constexpr size_t kQuarantinePlaces =
    kQuarantineShapes[kSizeClassCount - 1].first + kQuarantineShapes[kSizeClassCount - 1].places;

// Of one thread, which alone calls exchange() and take_all().
template <bool enabled>
class Quarantine {
 public:
  // Puts `block` in; returns the one whose time is over, null while there are places left. In a
  // child forked in between, blocks may be lost but never stand in two places.
  Block* exchange(uint32_t size_class, Block* block, RandomGenerator& random) {
    const QuarantineShape& shape = kQuarantineShapes[size_class];
    Block** places = blocks_ + shape.first;
    uint32_t oldest = oldest_[size_class];
    uint32_t chosen = oldest;
    if constexpr (has(Mitigation::kRandomReuse)) {
      chosen += random.below((shape.places + 1) / 2);
      if (chosen >= shape.places) chosen -= shape.places;
    }
    Block* leaving = places[chosen];
    places[chosen] = nullptr;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (chosen != oldest) {
      Block* stays = places[oldest];
      places[oldest] = nullptr;
      std::atomic_signal_fence(std::memory_order_seq_cst);
      places[chosen] = stays;
    }
    places[oldest] = block;
    oldest_[size_class] = static_cast<uint8_t>(oldest + 1 == shape.places ? 0 : oldest + 1);
    return leaving;
  }

  // Calls take(size_class, block) for each, which is in the quarantine no more.
  template <class Take>
  void take_all(Take take) {
    for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
      Block** places = blocks_ + kQuarantineShapes[size_class].first;
      for (uint32_t i = 0; i < kQuarantineShapes[size_class].places; ++i) {
        Block* block = places[i];
        if (block == nullptr) continue;
        places[i] = nullptr;
        std::atomic_signal_fence(std::memory_order_seq_cst);
        take(size_class, block);
      }
    }
  }

  template <class Visit>
  void visit(Visit visit) const {
    for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class)
      for (uint32_t i = 0; i < kQuarantineShapes[size_class].places; ++i)
        if (Block* block = blocks_[kQuarantineShapes[size_class].first + i]; block != nullptr) visit(size_class, block);
  }

  // Any thread, as of some moment.
  uint32_t count(uint32_t size_class) const {
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < kQuarantineShapes[size_class].places; ++i)
      blocks += blocks_[kQuarantineShapes[size_class].first + i] != nullptr ? 1 : 0;
    return blocks;
  }

 private:
  Block* blocks_[kQuarantinePlaces]{};
  uint8_t oldest_[kSizeClassCount]{};
};

template <>
class Quarantine<false> {
 public:
  Block* exchange(uint32_t, Block* block, RandomGenerator&) { return block; }
  template <class Take>
  void take_all(Take) {}
  template <class Visit>
  void visit(Visit) const {}
  uint32_t count(uint32_t) const { return 0; }
};

}  // namespace hakmem
