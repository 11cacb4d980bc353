// The two words of a slab that threads share: who owns it, and the list of what
// others freed into it. What threads do to them stands here apart from the rest of
// the slab, so that tests/model can run these very functions, with atomics of its
// own, in every order and with every weaker memory order.
//
// A thread that frees into a slab of another pushes, and then looks at the owner
// word; a thread that turns away from a slab sets the owner word, and then looks at
// the list. One of the two sees the other, so that no free stays behind in a slab
// that nobody looks after.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/superslab/size_class.h"

namespace hakmem {

// The owner word of a slab: the address of a thread cache, or one of these.
namespace owner {
inline constexpr uintptr_t kFree = 0;
inline constexpr uintptr_t kInterior = 1;  // not the first unit of its span: see Slab::head
inline constexpr uintptr_t kUnowned = 2;
inline constexpr uintptr_t kSampled = 3;
inline constexpr uintptr_t kLarge = 4;
inline constexpr uintptr_t kPooled = 5;  // from here on a free needs no look at the slab's state
inline constexpr uintptr_t kFirstThread = 16;
}  // namespace owner

// Frees by threads that do not own the slab: the newest block and how many,
// packed in one word so that both change together.
struct RemoteList {
  static uint64_t pack(uint32_t block_offset, uint32_t count) {
    return uint64_t{count} << 32 | (block_offset / kBlockAlignment + 1);
  }
  static uint32_t count(uint64_t word) { return static_cast<uint32_t>(word >> 32); }
  // Offset of the newest block in the slab; the list is not empty.
  static size_t offset(uint64_t word) { return (static_cast<uint32_t>(word) - 1) * kBlockAlignment; }
};

// The memory orders, so that the test can weaken each.
struct SlabOrders {
  std::memory_order claim = std::memory_order_acquire;  // pairs with disown: the owner's fields are ours now
  std::memory_order push = std::memory_order_seq_cst;   // release for collect; total with disown and pool
  std::memory_order look_after_push = std::memory_order_seq_cst;
  std::memory_order collect = std::memory_order_acquire;  // pairs with push: the links are readable
  std::memory_order disown = std::memory_order_seq_cst;   // release for claim; total with push
  std::memory_order look_after_disown = std::memory_order_seq_cst;
  std::memory_order pool = std::memory_order_seq_cst;  // total with push
  std::memory_order look_after_pool = std::memory_order_seq_cst;
  std::memory_order is_emptied = std::memory_order_acquire;  // pairs with push: the pushes are over
};
inline constexpr SlabOrders kSlabOrders{};

// `Slab` has the atomics `owner` and `remote`.
template <class Slab, const SlabOrders& orders = kSlabOrders>
struct SlabWords {
  // Makes the thread `tag` the owner of a slab that nobody owns, if it is the first to try.
  static bool claim(Slab& slab, uintptr_t tag) {
    uintptr_t expected = owner::kUnowned;
    return slab.owner.compare_exchange_strong(expected, tag, orders.claim);
  }

  // Puts the block at `offset` on the remote list; `link` gives it the list as it
  // was. Returns what the list is then. From here on the slab may be emptied,
  // retired and used anew by others.
  template <class Link>
  static uint64_t push(Slab& slab, uint32_t offset, Link link) {
    uint64_t old = slab.remote.load(std::memory_order_relaxed);
    uint64_t pushed;
    do {
      link(old);
      pushed = RemoteList::pack(offset, RemoteList::count(old) + 1);
    } while (!slab.remote.compare_exchange_weak(old, pushed, orders.push, std::memory_order_relaxed));
    return pushed;
  }
  static uintptr_t owner_after_push(const Slab& slab) { return slab.owner.load(orders.look_after_push); }

  // Takes the whole remote list. Owner only.
  static uint64_t collect(Slab& slab) {
    if (slab.remote.load(std::memory_order_relaxed) == 0) return 0;
    return slab.remote.exchange(0, orders.collect);
  }

  // The owner turns away. False when a remote free came in between, whose thread may
  // have looked before: then somebody has to claim the slab.
  static bool disown(Slab& slab) {
    slab.owner.store(owner::kUnowned, orders.disown);
    return slab.remote.load(orders.look_after_disown) == 0;
  }

  // The owner leaves a slab with `used` blocks to the pool. False when the last of
  // them came back meanwhile: then it owns the slab still. Under the pool's lock, as
  // are the next two.
  static bool put_into_pool(Slab& slab, uint32_t used) {
    uintptr_t giver = slab.owner.load(std::memory_order_relaxed);
    slab.owner.store(owner::kPooled, orders.pool);
    if (RemoteList::count(slab.remote.load(orders.look_after_pool)) != used) return true;
    slab.owner.store(giver, std::memory_order_relaxed);
    return false;
  }
  static void take_from_pool(Slab& slab, uintptr_t new_owner) {
    slab.owner.store(new_owner, std::memory_order_relaxed);
  }
  // Whether the slab is pooled and all that `used` says is on the remote list. `used`
  // is called for a pooled slab only: of others it belongs to the owner.
  template <class Used>
  static bool is_emptied(const Slab& slab, Used used) {
    return slab.owner.load(std::memory_order_relaxed) == owner::kPooled &&
           RemoteList::count(slab.remote.load(orders.is_emptied)) == used();
  }
};

}  // namespace hakmem
