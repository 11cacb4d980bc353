// A free block and its protected link.
//
// A free block holds two words: the free key, which says "this block is free",
// and on a slab's remote list the link to the next one, as (next ^ this) ^ secret.
// The key stands first, where a write through a stale pointer goes most often:
// it is checked when the block is handed out. Decoding a link gives the distance
// to the next block: a distance of a superslab or more is either the end of the
// list (next is null, so that the distance is the block's own address) or a link
// that somebody overwrote.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/mitigations.h"
#include "allocator/page_arena/page_arena.h"

namespace hakmem {

// Two secrets, drawn once at start, before the first block exists. Apart,
// because code reaches a variable in one instruction, and a member of a
// structure in two.
HAKMEM_HIDDEN extern uint64_t link_secret;
HAKMEM_HIDDEN extern uint64_t free_key;

inline constexpr bool kHasFreeKey = has(Mitigation::kFreeKeys);

struct Block {
  uint64_t key;
  uint64_t link;

  // The distance that the link encodes; a valid one is below kSuperslabBytes.
  uint64_t distance() const { return link ^ secret(); }
  static bool is_valid(uint64_t distance) { return distance < kSuperslabBytes; }
  bool is_last() const { return distance() == reinterpret_cast<uintptr_t>(this); }
  Block* at(uint64_t distance) { return reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(this) ^ distance); }

  void set_next(const Block* next) {
    link = (reinterpret_cast<uintptr_t>(next) ^ reinterpret_cast<uintptr_t>(this)) ^ secret();
  }
  static uint64_t secret() { return has(Mitigation::kEncodedLinks) ? link_secret : 0; }
  void mark_free() {
    if constexpr (kHasFreeKey) key = free_key;
  }
  bool looks_free() const { return kHasFreeKey && key == free_key; }
  // For a block that is free: whether somebody wrote to the key since.
  bool has_lost_key() const { return kHasFreeKey && key != free_key; }
  void clear_key() { key = 0; }
  // Takes the key away. False when the block did not have it: then somebody
  // wrote to it since it was freed.
  bool take_key() {
    if constexpr (!kHasFreeKey) return true;
    uint64_t expected = free_key;
    __asm__("" : "+r"(expected));  // in a register: then the subtraction is one instruction in place
    return (key -= expected) == 0;
  }

  // The next block; null at the end, and where the link was overwritten.
  Block* next() {
    uint64_t to_next = distance();
    return is_valid(to_next) ? at(to_next) : nullptr;
  }
};

}  // namespace hakmem
