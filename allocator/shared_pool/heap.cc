#include "allocator/shared_pool/heap.h"

namespace hakmem {

constinit Heap heap;

bool Heap::reclaim_addresses(uint32_t shard) {
  size_t bytes = huge.purge(shard);
  bytes += superslabs.release_empty();
  if (LinuxMemory::address_space_limit() != SIZE_MAX) bytes += superslabs.trim_reservations();
  return bytes > 0;
}

}  // namespace hakmem
