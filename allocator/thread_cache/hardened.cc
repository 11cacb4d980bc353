// What a hardened build does with each block on its way to the program and back:
// malloc looks whether the block is as its free left it, free whether it is a live
// block, and then clears it and lets it wait. All of it stands before the ways that
// every build has: those see a free later, and of the block whose time is over.
#include <string.h>

#include <utility>

#include "allocator/base/message.h"
#include "allocator/superslab/superslab_maps.h"
#include "allocator/thread_cache/internal.h"

namespace hakmem {
namespace {

using Chunk = uint64_t __attribute__((vector_size(kBlockAlignment), may_alias));

// The chunks of a small block without a branch for how many there are, which a processor
// mostly guesses wrong where sizes come in no order: what is beyond the last one is that again.
constexpr size_t kSmallChunks = 8;
constexpr size_t kSmallBytes = kSmallChunks * sizeof(Chunk);
HAKMEM_INLINE Chunk* small_chunk(void* block, size_t bytes, size_t index) {
  size_t offset = index * sizeof(Chunk);
  size_t last = bytes - sizeof(Chunk);
  return reinterpret_cast<Chunk*>(static_cast<char*>(block) + (offset < last ? offset : last));
}

// Only where blocks are cleared.
[[maybe_unused]] HAKMEM_INLINE void clear(Block* block, size_t bytes) {
  if (bytes > kSmallBytes) {
    memset(static_cast<void*>(block), 0, bytes);
    return;
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < kSmallChunks; ++i) *small_chunk(block, bytes, i) = Chunk{};
}

// But for the first chunk, the words that a free block has for the allocator.
[[maybe_unused]] HAKMEM_INLINE bool is_clear(Block* block, size_t bytes) {
  Chunk bits{};
  if (bytes > kSmallBytes) {
    auto* chunk = reinterpret_cast<const Chunk*>(block + 1);
    auto* end = reinterpret_cast<const Chunk*>(reinterpret_cast<const char*>(block) + bytes);
    for (; end - chunk >= 4; chunk += 4) bits |= (chunk[0] | chunk[1]) | (chunk[2] | chunk[3]);
    for (; chunk != end; ++chunk) bits |= *chunk;
  } else if (bytes > sizeof(Chunk)) {
#pragma GCC unroll 8
    for (size_t i = 1; i < kSmallChunks; ++i) bits |= *small_chunk(block, bytes, i);
  }
  return (bits[0] | bits[1]) == 0;
}
static_assert(sizeof(Block) == sizeof(Chunk));

// The words that a free block has for the allocator, as its free left them.
HAKMEM_INLINE bool has_its_words(const Block* block) {
  return !block->has_lost_key() && (!has(Mitigation::kZeroOnFree) || block->link == 0);
}

// Whether a free block that is on no list is as its free left it.
HAKMEM_INLINE bool is_untouched(Block* block, size_t bytes) {
  if (!has_its_words(block)) return false;
  if constexpr (has(Mitigation::kZeroOnFree)) return is_clear(block, bytes);
  return true;
}

// A block leaves the quarantine; the rest of it is looked at as it is handed out. False
// after a report: the block is leaked.
HAKMEM_INLINE bool may_be_used_again(const Block* block) {
  if (has_its_words(block)) [[likely]]
    return true;
  report_misuse(Message::kCorruptedFreeList, block);
  return false;
}

// The slab that `address` lies in; null when there is none with blocks.
HAKMEM_INLINE Slab* find_slab(uintptr_t address) {
  size_t unit = (address - slab_map_base) >> kUnitShift;
  Slab* slab = unit < slab_map_units ? slab_map_records[unit].head() : heap.superslabs.find(address);
  if (slab == nullptr) return nullptr;
  // Of a live block the slab stays what it is.
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  return owner_word == owner::kFree || owner_word == owner::kLarge ? nullptr : slab;
}

}  // namespace

bool hand_out(Block* block) {
  Slab* slab = slab_of(block);
  if (!is_untouched(block, slab->shape().block_bytes)) [[unlikely]]
    return false;
  block->clear_key();
  SuperslabMaps::set_live(slab, slab->index_of(reinterpret_cast<uintptr_t>(block)), true);
  return true;
}

void free_checked(void* address) {
  auto start = reinterpret_cast<uintptr_t>(address);
  Slab* slab = find_slab(start);
  if (slab == nullptr) [[unlikely]]
    return free_to_bin(address);
  auto* block = static_cast<Block*>(address);
  if (!slab->is_block_start(start)) [[unlikely]]
    return free_inside(block);
  uint64_t index = slab->index_of(start);
  if (!SuperslabMaps::is_live(slab, index)) [[unlikely]]
    return report_misuse(Message::kDoubleFree, address);
  SuperslabMaps::set_live(slab, index, false);
  if constexpr (has(Mitigation::kZeroOnFree)) clear(block, slab->shape().block_bytes);
  if constexpr (has(Mitigation::kDelayedReuse)) {
    ThreadCache* cache = thread_state.cache;
    if (cache != &empty_cache) [[likely]] {
      uint32_t size_class = slab->size_class;
      block->mark_free();
      Block* leaving = cache->quarantine.exchange(size_class, block, cache->random);
      if (leaving == nullptr || !may_be_used_again(leaving)) [[unlikely]]
        return;
      // Whoever owns its slab.
      Bin& bin = cache->bins[size_class];
      if (--bin.frees_left == 0) [[unlikely]]
        return free_counted_out(leaving, slab_of(leaving));
      return push(bin, leaving);
    }
  }
  free_to_bin(block);
}

void flush_quarantine(ThreadCache* cache) {
  cache->quarantine.take_all([cache](uint32_t size_class, Block* block) {
    if (may_be_used_again(block)) return_to_slabs(cache, size_class, &block, 1);
  });
}

void check_quarantine(const ThreadCache* cache) {
  cache->quarantine.visit([](uint32_t size_class, Block* block) {
    if (!is_untouched(block, kClassShapes[size_class].block_bytes)) report_misuse(Message::kCorruptedFreeList, block);
  });
}

void shuffle_bin(ThreadCache* cache, uint32_t size_class) {
  Bin& bin = cache->bins[size_class];
  Block** top = bin.top;
  uint32_t count = cache->blocks_in_bin(size_class);
  // Empty meanwhile, so that a child forked in between finds no block twice.
  bin.top = cache->bottom(size_class);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  for (uint32_t left = count; left > 1; --left) std::swap(top[left - 1], top[cache->random.below(left)]);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  bin.top = top;
}

}  // namespace hakmem
