#include "allocator/superslab/slab.h"

namespace hakmem {

constinit uintptr_t slab_map_base = 0;
constinit size_t slab_map_units = 0;
constinit Slab* slab_map_records = nullptr;

uint32_t Slab::take_free(Block** blocks, uint32_t limit) {
  const size_t block_bytes = shape().block_bytes;
  uint32_t word = free_word;
  uint64_t bits = free_map[word];
  uint32_t count = 0;
  for (;;) {
    uintptr_t first = start + size_t{word} * 64 * block_bytes;
    if (bits == UINT64_MAX && limit - count >= 64) {
      // As where all blocks came back: without a look for each.
      for (uint32_t i = 0; i < 64; ++i) blocks[count + i] = reinterpret_cast<Block*>(first + i * block_bytes);
      count += 64;
      bits = 0;
    }
    for (; bits != 0 && count < limit; bits &= bits - 1)
      blocks[count++] = reinterpret_cast<Block*>(first + static_cast<uint32_t>(__builtin_ctzll(bits)) * block_bytes);
    free_map[word] = bits;
    if (count == limit || (word + 1) * 64 >= carved) break;
    bits = free_map[++word];
  }
  free_word = static_cast<uint8_t>(word);
  return count;
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
  for (uint32_t word = 0; word < kFreeMapWords; ++word) {
    uint64_t bits = free_map[word];
    if (bits == 0) continue;
    if (word < free_word || word * 64 + 63 - static_cast<uint32_t>(__builtin_clzll(bits)) >= carved) return false;
  }
  return carved == real_used + count_free();
}

}  // namespace hakmem
