// A free block and its protected link.
//
// A free block holds two words: the link to the next free block of its slab,
// as (next ^ this) ^ secret, and the free key, which says "this block is free".
// Decoding a link gives the distance to the next block: a distance of a
// superslab or more is either the end of the list (next is null, so that the
// distance is the block's own address) or a link that somebody overwrote.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/page_arena/page_arena.h"

namespace hakmem {

// Two secrets, drawn once at start, before the first block exists. The initial
// values are such that the empty block below decodes to a distance out of
// bounds. Apart, because code reaches a variable in one instruction, and a
// member of a structure in two.
HAKMEM_HIDDEN extern uint64_t link_secret;
HAKMEM_HIDDEN extern uint64_t free_key;

struct Block {
  uint64_t link;
  uint64_t key;

  // The distance that the link encodes; a valid one is below kSuperslabBytes.
  uint64_t distance() const { return link ^ link_secret; }
  static bool is_valid(uint64_t distance) { return distance < kSuperslabBytes; }
  bool is_last() const { return distance() == reinterpret_cast<uintptr_t>(this); }
  Block* at(uint64_t distance) { return reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(this) ^ distance); }

  void set_next(const Block* next) {
    link = (reinterpret_cast<uintptr_t>(next) ^ reinterpret_cast<uintptr_t>(this)) ^ link_secret;
  }
  void mark_free() { key = free_key; }
  bool looks_free() const { return key == free_key; }
  void clear_key() { key = 0; }

  // The next block, null at the end. Ends the process when the link was overwritten.
  Block* next() {
    uint64_t to_next = distance();
    if (is_valid(to_next)) return at(to_next);
    if (!is_last()) corrupted();
    return nullptr;
  }

  [[noreturn]] HAKMEM_COLD void corrupted() const;
};

// What an empty list points to: its link decodes to a distance out of bounds,
// so that popping from an empty list takes the cold path without a null check.
HAKMEM_HIDDEN extern const Block empty_block;

}  // namespace hakmem
