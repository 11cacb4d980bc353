// Pseudo-random numbers and content that identifies the block it stands in.
#pragma once

#include <stdint.h>
#include <string.h>

#include "tests/stress/check.h"

namespace stress {

// splitmix64 (Steele, Lea, Flood, OOPSLA 2014): small, seedable, good enough here.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

  uint64_t below(uint64_t bound) { return next() % bound; }

  // A size in 1..2^max_log2, each power of two as likely as the other.
  size_t log_uniform_size(uint32_t max_log2) {
    size_t top = size_t{1} << below(max_log2 + 1);
    return top - below((top + 1) / 2);
  }

 private:
  uint64_t state_;
};

// Bytes above this are stamped at intervals only, but for both ends: a block of
// 4 MiB would cost more to fill than everything else the tests do with it.
inline constexpr size_t kDenseBytes = 16 * kKiB;
inline constexpr size_t kStampInterval = 16381;

inline uint8_t content_byte(uint64_t tag, size_t offset) {
  return static_cast<uint8_t>(((tag + offset) * 0x9e3779b97f4a7c15ull) >> 56);
}

template <class Visit>
inline void visit_stamped_offsets(size_t size, Visit visit) {
  size_t dense = size < kDenseBytes ? size : kDenseBytes;
  for (size_t i = 0; i < dense; ++i) visit(i);
  if (size == dense) return;
  for (size_t i = dense; i < size; i += kStampInterval) visit(i);
  for (size_t i = size - 64; i < size; ++i) visit(i);
}

// Writes the content that `tag` stands for.
inline void fill_content(void* block, size_t size, uint64_t tag) {
  auto* bytes = static_cast<uint8_t*>(block);
  visit_stamped_offsets(size, [=](size_t i) { bytes[i] = content_byte(tag, i); });
}

// Checks the first `size` bytes of a block that was filled with `filled` bytes
// (a realloc keeps the smaller of the two).
inline void check_content(const void* block, size_t size, uint64_t tag, size_t filled) {
  auto* bytes = static_cast<const uint8_t*>(block);
  visit_stamped_offsets(filled, [=](size_t i) {
    if (i < size && bytes[i] != content_byte(tag, i)) {
      dprintf(2, "block %p of %zu bytes, filled with %zu: byte %zu is %02x instead of %02x\n", block, size, filled, i,
              bytes[i], content_byte(tag, i));
      abort();
    }
  });
}

inline void check_content(const void* block, size_t size, uint64_t tag) { check_content(block, size, tag, size); }

inline void check_zero(const void* block, size_t size) {
  auto* bytes = static_cast<const uint8_t*>(block);
  for (size_t i = 0; i < size; ++i) {
    if (bytes[i] == 0) continue;
    dprintf(2, "block %p of %zu bytes: byte %zu is %02x instead of 0\n", block, size, i, bytes[i]);
    abort();
  }
}

inline bool is_aligned(const void* block, size_t alignment) {
  return (reinterpret_cast<uintptr_t>(block) & (alignment - 1)) == 0;
}

}  // namespace stress
