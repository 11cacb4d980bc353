#include "allocator/superslab/slab.h"

#include <algorithm>

#include "allocator/base/bits.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

constinit uintptr_t slab_map_base = 0;
constinit size_t slab_map_units = 0;
constinit Slab* slab_map_records = nullptr;
constinit std::atomic<uint16_t> present_look{2};  // a record that was never marked is older

namespace {

// How many of `blocks`, at most `limit`, stand `step` bytes apart, the first at `address`.
HAKMEM_INLINE uint32_t row_length(Block* const* blocks, uint32_t limit, uintptr_t address, uintptr_t step) {
  Block* const* block = blocks;
#pragma GCC unroll 4
  for (Block* const* end = blocks + limit; block != end; ++block, address += step)
    if (reinterpret_cast<uintptr_t>(*block) != address) break;
  return static_cast<uint32_t>(block - blocks);
}

// Whether the ones in `bits` stand side by side.
constexpr bool is_row(uint64_t bits) { return bits != 0 && (bits & (bits + (bits & -bits))) == 0; }
static_assert(is_row(0b0110) && is_row(UINT64_MAX) && !is_row(0b0101) && !is_row(0));

// A refill of fewer blocks does not look for a row of them: they are of a slab of few, large blocks.
constexpr ptrdiff_t kLeastTakenRow = 8;

}  // namespace

uint32_t Slab::put_free_rows(Block* const* blocks, uint32_t limit) {
  const ClassShape& slab_shape = shape();
  const uint32_t block_bytes = slab_shape.block_bytes;
  uint32_t done = 0;
  HAKMEM_ASSERT(limit != 0);
  do {
    auto address = reinterpret_cast<uintptr_t>(blocks[done]);
    uint64_t index = (address - start) * slab_shape.reciprocal >> kReciprocalShift;
    if (index * block_bytes != address - start || index >= carved) break;
    auto bit = static_cast<uint32_t>(index % 64);
    uint32_t length = 1;
    uint64_t row = uint64_t{1} << bit;
    uint64_t& word = free_map[index / 64];
    uintptr_t step = done + 1 < limit ? reinterpret_cast<uintptr_t>(blocks[done + 1]) - address : 0;
    bool is_upwards = step == block_bytes;
    if (is_upwards || step == -uintptr_t{block_bytes}) {
      uint32_t most = is_upwards ? std::min(64 - bit, carved - static_cast<uint32_t>(index)) : bit + 1;
      length = row_length(blocks + done, std::min(most, limit - done), address, step);
      row = UINT64_MAX >> (64 - length) % 64 << (is_upwards ? bit : bit + 1 - length);
    }
    if ((word & row) != 0) [[unlikely]] {
      // Some came back before: one by one, up to the first of these.
      length = 1;
      row = uint64_t{1} << bit;
      if ((word & row) != 0) break;
    }
    word |= row;
    if (index / 64 < free_word) free_word = static_cast<uint8_t>(index / 64);
    done += length;
  } while (done != limit);
  return done;
}

uint32_t Slab::take_free(Block** blocks, uint32_t limit) {
  const size_t block_bytes = shape().block_bytes;
  uint32_t word = free_word;
  uint64_t bits = free_map[word];
  Block** to = blocks;
  Block** end = blocks + limit;
  for (;;) {
    uintptr_t first = start + size_t{word} * 64 * block_bytes;
    if (end - to >= kLeastTakenRow && is_row(bits)) {
      // As where a burst came back: without a look for each.
      auto bit = static_cast<uint32_t>(__builtin_ctzll(bits));
      uint32_t length = log2_floor(bits) + 1 - bit;
      auto taken = std::min(length, static_cast<uint32_t>(end - to));
      uintptr_t address = first + bit * block_bytes;
#pragma GCC unroll 4
      for (Block** stop = to + taken; to != stop; ++to, address += block_bytes) *to = reinterpret_cast<Block*>(address);
      bits = taken == length ? 0 : bits & UINT64_MAX << (bit + taken);
    }
    for (; bits != 0 && to != end; bits &= bits - 1)
      *to++ = reinterpret_cast<Block*>(first + static_cast<uint32_t>(__builtin_ctzll(bits)) * block_bytes);
    free_map[word] = bits;
    if (to == end || (word + 1) * 64 >= carved) break;
    bits = free_map[++word];
  }
  free_word = static_cast<uint8_t>(word);
  return static_cast<uint32_t>(to - blocks);
}

__attribute__((no_sanitize("thread"))) bool Slab::has_free(const Block* block) const {
  uint64_t index = index_of(reinterpret_cast<uintptr_t>(block));
  return (free_map[index / 64] >> index % 64 & 1) != 0;
}

uint32_t Slab::count_free() const {
  uint32_t count = 0;
  for (uint32_t word = 0; word < (carved + 63) / 64; ++word)
    count += static_cast<uint32_t>(__builtin_popcountll(free_map[word]));
  return count;
}

bool Slab::is_consistent() const {
  if (state == SlabState::Free) return used == 0 && count_free() == 0;
  if (state == SlabState::Large) return units > 0 && start % kUnitBytes == 0;
  if (size_class >= kSizeClassCount || countdown > countdown_start) return false;
  uint32_t real_used = used - settled_frees();
  if (carved > shape().capacity || real_used > carved) return false;
  for (uint32_t word = 0; word * 64 < shape().capacity; ++word) {
    uint64_t bits = free_map[word];
    if (bits == 0) continue;
    if (word < free_word || word * 64 + 63 - static_cast<uint32_t>(__builtin_clzll(bits)) >= carved) return false;
  }
  return carved == real_used + count_free();
}

}  // namespace hakmem
