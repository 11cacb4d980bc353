// Size classes: 16-byte steps up to 256 bytes, then eight classes a doubling up
// to 256 KiB, so that rounding is at most 12.5 % above 128 bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/base/mitigations.h"
#include "allocator/metrics/catalogue.h"

namespace hakmem {

inline constexpr uint32_t kSizeClassCount = metrics::kSlabClassCount;
inline constexpr size_t kUnitBytes = 32 * kKiB;
inline constexpr uint32_t kUnitShift = 15;
inline constexpr uint32_t kUnitsPerSuperslab = 64;
inline constexpr uint64_t kAllUnits = ~uint64_t{0};  // a bit for each

inline constexpr size_t kBlockAlignment = 16;
inline constexpr uint32_t kLinearClasses = 16;        // 16, 32, ..., 256
inline constexpr size_t kMaxClassBytes = 256 * kKiB;  // the largest object of a slab
inline constexpr size_t kMaxTableBytes = 1024;        // sizes whose class the thread cache has in a table
inline constexpr size_t kMaxLargeBytes = 1 * kMiB;    // a run of units of its own; above it: huge
inline constexpr size_t kMaxLargeAlignment = 64 * kKiB;

// At the end of each slab and large allocation.
inline constexpr size_t kGuardBytes = has(Mitigation::kGuardPages) ? kPageBytes : 0;
// What a span has for blocks or for a large allocation, and the units that `bytes` need.
constexpr size_t span_bytes(uint32_t units) { return units * kUnitBytes - kGuardBytes; }
constexpr uint32_t span_units(size_t bytes) {
  return static_cast<uint32_t>((bytes + kGuardBytes + kUnitBytes - 1) / kUnitBytes);
}

constexpr uint32_t size_class_of(size_t bytes) {
  if (bytes <= 256) return bytes == 0 ? 0 : static_cast<uint32_t>((bytes - 1) >> 4);
  uint32_t log2 = log2_floor(bytes - 1);  // 8 for 257..512
  uint32_t eighth = static_cast<uint32_t>((bytes - 1) >> (log2 - 3)) & 7;
  return kLinearClasses + (log2 - 8) * 8 + eighth;
}

constexpr size_t class_bytes(uint32_t size_class) {
  if (size_class < kLinearClasses) return (size_class + 1) * 16;
  uint32_t doubling = (size_class - kLinearClasses) / 8;
  uint32_t eighth = (size_class - kLinearClasses) % 8;
  return (size_t{9} + eighth) << (doubling + 5);
}

static_assert(size_class_of(kMaxClassBytes) == kSizeClassCount - 1);
static_assert(class_bytes(kSizeClassCount - 1) == kMaxClassBytes);
static_assert(class_bytes(size_class_of(257)) == 288 && class_bytes(size_class_of(4097)) == 4608);

// What a slab of a class looks like.
struct ClassShape {
  uint32_t block_bytes;
  uint32_t capacity;        // blocks
  uint16_t units;           // of kUnitBytes
  uint16_t refill_objects;  // carved at a time: bounded in count and in bytes
  uint32_t wake_threshold;  // frees until an exhausted slab is worth refilling from
  uint64_t reciprocal;      // block index = offset * reciprocal >> kReciprocalShift
};

// The bounds of a refill; `./run bench refill` builds others to measure them.
#ifndef HAKMEM_REFILL_OBJECTS
#define HAKMEM_REFILL_OBJECTS 64
#endif
#ifndef HAKMEM_REFILL_BYTES
#define HAKMEM_REFILL_BYTES (4 * kKiB)
#endif
#ifndef HAKMEM_REFILL_DOUBLINGS
#define HAKMEM_REFILL_DOUBLINGS 2
#endif

inline constexpr uint32_t kReciprocalShift = 42;
inline constexpr size_t kRefillBytes = HAKMEM_REFILL_BYTES;
inline constexpr uint32_t kRefillObjects = HAKMEM_REFILL_OBJECTS;
inline constexpr uint32_t kRefillDoublings = HAKMEM_REFILL_DOUBLINGS;  // of both, while nothing comes back

constexpr ClassShape make_shape(uint32_t size_class) {
  size_t bytes = class_bytes(size_class);
  // The smallest span of which at most a twelfth is left over. Small spans: what
  // a thread keeps of a class that it seldom uses is one slab. Of blocks above 32 KiB
  // it is a slab of one to four, with at most an eighth left over; up to there a thread alone
  // keeps no slabs that it has used up, so these need some blocks.
  bool is_large = bytes > 32 * kKiB;
  size_t fewest = is_large ? 1 : 4;
  size_t parts = is_large || kGuardBytes != 0 ? 8 : 12;
  // A guard page would be an eighth of one unit; but of the smallest blocks two have more than a free map has bits.
  uint32_t units = kGuardBytes != 0 && bytes > kBlockAlignment ? 2 : 1;
  auto rest_of = [bytes](uint32_t n) { return kGuardBytes + span_bytes(n) % bytes; };
  while (span_bytes(units) / bytes < fewest || rest_of(units) * parts > units * kUnitBytes) ++units;
  size_t span = span_bytes(units);
  uint32_t capacity = static_cast<uint32_t>(span / bytes);
  size_t objects = kRefillBytes / bytes;
  if (objects > kRefillObjects) objects = kRefillObjects;
  if (objects < 1) objects = 1;
  return {static_cast<uint32_t>(bytes),        capacity,
          static_cast<uint16_t>(units),        static_cast<uint16_t>(objects),
          capacity / 8 > 0 ? capacity / 8 : 1, ((uint64_t{1} << kReciprocalShift) + bytes - 1) / bytes};
}

inline constexpr auto kClassShapes = [] {
  std::array<ClassShape, kSizeClassCount> shapes{};
  for (uint32_t i = 0; i < kSizeClassCount; ++i) shapes[i] = make_shape(i);
  return shapes;
}();

// Smallest class whose every block is aligned to `alignment`, a power of two;
// kSizeClassCount when there is none. Slabs start at multiples of kUnitBytes.
//
// It is the class of the size rounded up to the alignment. Either the classes
// there are so close that this size is one of them, or they stand at multiples
// of the alignment, all of them.
constexpr uint32_t aligned_class_of(size_t bytes, size_t alignment) {
  if (alignment > kUnitBytes || bytes > kMaxClassBytes) return kSizeClassCount;
  return size_class_of(bytes == 0 ? alignment : align_up(bytes, alignment));
}

}  // namespace hakmem
