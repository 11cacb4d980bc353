// What a hardened build does with each block on its way to the program and back:
// malloc looks whether the block is as its free left it, free whether it is a live
// block, and then clears it and lets it wait. All of it stands before the ways that
// every build has: those see a free later, and of the block whose time is over.
#include <string.h>

#include <utility>

#include "allocator/base/message.h"
#include "allocator/thread_cache/internal.h"

namespace hakmem {
namespace {

using Chunk = uint64_t __attribute__((vector_size(kBlockAlignment), may_alias));
constexpr size_t kMaxInlineBytes = 256;

// Only where blocks are cleared.
[[maybe_unused]] void clear(Block* block, size_t bytes) {
  if (bytes > kMaxInlineBytes) {
    memset(static_cast<void*>(block), 0, bytes);
    return;
  }
  auto* chunk = reinterpret_cast<Chunk*>(block);
  for (size_t i = 0; i < bytes / sizeof(Chunk); ++i) chunk[i] = Chunk{};
}

[[maybe_unused]] bool is_clear(const void* start, size_t bytes) {
  auto* chunk = static_cast<const Chunk*>(start);
  auto* end = chunk + bytes / sizeof(Chunk);
  Chunk bits{};
  for (; end - chunk >= 4; chunk += 4) bits |= (chunk[0] | chunk[1]) | (chunk[2] | chunk[3]);
  for (; chunk != end; ++chunk) bits |= *chunk;
  return (bits[0] | bits[1]) == 0;
}

// Whether a free block that is on no list is as its free left it.
bool is_untouched(const Block* block, size_t bytes) {
  if (block->has_lost_key()) return false;
  if constexpr (has(Mitigation::kZeroOnFree)) return block->link == 0 && is_clear(block + 1, bytes - sizeof(Block));
  return true;
}

// The words that a free block has for the allocator, the others are looked at as it is
// handed out. False after a report: the block is leaked.
bool take_from_quarantine(Block* block) {
  if (block->take_key() && (!has(Mitigation::kZeroOnFree) || block->link == 0)) [[likely]]
    return true;
  report_misuse(Message::kCorruptedFreeList, block);
  return false;
}

// The slab that `address` lies in; null when there is none with blocks.
Slab* find_slab(uintptr_t address) {
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
  slab->set_live(reinterpret_cast<uintptr_t>(block), true);
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
  if (!slab->is_live(start)) [[unlikely]]
    return report_misuse(Message::kDoubleFree, address);
  slab->set_live(start, false);
  if constexpr (has(Mitigation::kZeroOnFree)) clear(block, slab->shape().block_bytes);
  if constexpr (has(Mitigation::kDelayedReuse)) {
    ThreadCache* cache = thread_state.cache;
    if (cache != &empty_cache) [[likely]] {
      block->mark_free();
      block = cache->quarantine.exchange(slab->size_class, block, cache->random);
      if (block == nullptr || !take_from_quarantine(block)) [[unlikely]]
        return;
    }
  }
  free_to_bin(block);
}

void flush_quarantine(ThreadCache* cache) {
  cache->quarantine.take_all([cache](uint32_t size_class, Block* block) {
    if (!take_from_quarantine(block)) return;
    block->mark_free();
    return_to_slabs(cache, size_class, &block, 1);
  });
}

void check_quarantine(const ThreadCache* cache) {
  cache->quarantine.visit([](uint32_t size_class, const Block* block) {
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
