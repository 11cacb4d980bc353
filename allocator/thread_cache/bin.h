// A bin: the free blocks of one class that a thread has at hand, last in, first
// out, so that what comes next was used last and stands in the processor's cache.
//
// The blocks stand in an array that fills downwards from a slot that is null:
// taking from an empty bin shows in the value that is read, and needs no count.
// The array lies apart from the blocks, so that no write through a stale
// pointer reaches it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "allocator/superslab/slab.h"

namespace hakmem {

struct Bin {
  Block** top;          // the next block to hand out; null when there is none
  uint64_t frees_left;  // frees until the cold path looks at the bin: at most the room, plus one
};

// Size of a bin in words of 8 bytes, a scale that an address has for free.
inline constexpr uint32_t kBinWords = sizeof(Bin) / sizeof(uint64_t);

// The first word of a bin, as malloc finds it.
using BinTop = Block**;
static_assert(sizeof(BinTop) == sizeof(uint64_t) && offsetof(Bin, top) == 0);

// Blocks that a refill brings at most. Fresh ones it bounds further (ClassShape::refill_objects).
inline constexpr uint32_t kMaxRefillBlocks = kRefillObjects << kRefillDoublings;

struct BinShape {
  uint32_t capacity;   // slots; ClassState::bin_limit may be less
  uint32_t bottom;     // index of the null slot among the slots of a cache
  uint16_t passed_on;  // limit of a thread that passes on what others allocate
  uint16_t shared;     // least limit while many threads share the blocks of the class
  bool is_big;
};

inline constexpr size_t kBinBytes = 64 * kKiB;
inline constexpr uint32_t kMaxBinBlocks = 4096;
inline constexpr uint32_t kMinBinBlocks = 8;

// What a bin may hold at first; the limit doubles with each refill, and as long as the class is
// allocated from.
inline constexpr uint32_t kFirstBinLimit = 256;

// A bin that only takes frees shrinks its limit to this, if it has as many
// slots: what stays in it afterwards keeps few slabs from becoming empty.
inline constexpr uint32_t kLeastBinLimit = 128;

// Of the blocks of other threads' slabs that a thread frees so many of a class go home, or more
// where it frees more of its own (after_many_frees() in bin.cc); of the next so many each stays in the bin.
inline constexpr int32_t kSentHome = 512;
inline constexpr int32_t kKeptFromHome = 16 * kSentHome;

// Among several threads, the limit of one that does not allocate from the class: what it frees is a
// batch on its way to others, and serves nobody meanwhile.
inline constexpr size_t kPassedOnBytes = 16 * kKiB;
inline constexpr uint32_t kMinPassedOnBlocks = 2;

// Many threads share the free blocks of classes above this size by way of the pool, slabs and all. Of such a class each
// keeps so many bytes at first, and more where it would come to the pool often (adapt_to_rate() in refill.cc).
inline constexpr size_t kSharedBlockBytes = 1 * kKiB;
inline constexpr size_t kLeastSharedBytes = 4 * kKiB;

// Each free of a block above this size is looked at, since what a thread keeps
// of all big classes together is bounded: by kBigBytes, and among many threads by less.
inline constexpr size_t kBigBlockBytes = 32 * kKiB;
inline constexpr size_t kBigBytes = 1 * kMiB;
inline constexpr size_t kBigBytesOfAll = 2 * kMiB;
inline constexpr size_t kLeastBigBytes = 256 * kKiB;

constexpr std::array<BinShape, kSizeClassCount> make_bin_shapes() {
  std::array<BinShape, kSizeClassCount> shapes{};
  uint32_t next = 0;
  for (uint32_t i = 0; i < kSizeClassCount; ++i) {
    uint32_t bytes = kClassShapes[i].block_bytes;
    auto blocks_of = [bytes](size_t all, uint32_t least, uint32_t most) {
      return std::clamp(static_cast<uint32_t>(all / bytes), least, most);
    };
    uint32_t capacity = blocks_of(kBinBytes, kMinBinBlocks, kMaxBinBlocks);
    shapes[i] = {capacity, next + capacity,
                 static_cast<uint16_t>(blocks_of(kPassedOnBytes, kMinPassedOnBlocks, kLeastBinLimit)),
                 static_cast<uint16_t>(blocks_of(kLeastSharedBytes, 1, capacity)), bytes > kBigBlockBytes};
    next += capacity + 1;
  }
  return shapes;
}

inline constexpr auto kBinShapes = make_bin_shapes();
inline constexpr size_t kBinSlots = kBinShapes[kSizeClassCount - 1].bottom + 1;

}  // namespace hakmem
