#include "allocator/superslab/slab.h"

namespace hakmem {

constinit uintptr_t slab_map_base = 0;
constinit size_t slab_map_units = 0;
constinit Slab* slab_map_records = nullptr;

bool Slab::is_consistent() const {
  if (state == SlabState::Free) return free == nullptr && used == 0;
  if (state == SlabState::Large) return units > 0 && start % kUnitBytes == 0;
  if (size_class >= kSizeClassCount || countdown > countdown_start) return false;
  uint32_t real_used = used - settled_frees();
  if (carved > shape().capacity || real_used > carved) return false;
  uint32_t listed_blocks = 0;
  for (Block* block = free; block != nullptr; block = block->next()) {
    size_t offset = reinterpret_cast<uintptr_t>(block) - start;
    if (offset >= size_t{carved} * shape().block_bytes || offset % shape().block_bytes != 0) return false;
    if (++listed_blocks > carved) return false;
  }
  return carved == real_used + listed_blocks;
}

}  // namespace hakmem
