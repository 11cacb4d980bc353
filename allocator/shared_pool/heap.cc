#include "allocator/shared_pool/heap.h"

namespace hakmem {

constinit SharedPool::Places Heap::pool_places;
HAKMEM_LARGE_DATA constinit Heap heap;

void Heap::decay_now(uint32_t shard) {
  age_.fetch_add(1, std::memory_order_relaxed);
  superslabs.decay(shard);
  huge.decay(shard);
  drain_due_.store(true, std::memory_order_relaxed);
  // The program may have set a limit for itself since we reserved addresses;
  // what libc and the program map counts against it, too.
  size_t limit = LinuxMemory::address_space_limit();
  if (limit != SIZE_MAX && arena.reserved_bytes() > limit / 2) superslabs.trim_reservations();
}

bool Heap::reclaim_addresses(uint32_t shard) {
  size_t bytes = huge.purge(shard);
  bytes += superslabs.release_empty();
  if (LinuxMemory::address_space_limit() != SIZE_MAX) bytes += superslabs.trim_reservations();
  return bytes > 0;
}

Message Heap::misuse_of(const void* address) {
  auto place = reinterpret_cast<uintptr_t>(address);
  using HugePlace = HugeHeap<SystemMemory>::Place;
  HugePlace in_huge = huge.place_of(address);
  if (in_huge == HugePlace::kLive) return Message::kInvalidPointer;
  bool was_freed = place % kPageBytes == 0;  // where a huge block may have started
  if (in_huge == HugePlace::kOutside) {
    const Slab* slab = superslabs.find(place);
    if (slab == nullptr) return Message::kForeignPointer;
    was_freed = SuperslabHeap<SystemMemory>::was_allocated(slab, place);
  }
  return was_freed ? Message::kDoubleFree : Message::kInvalidPointer;
}

}  // namespace hakmem
