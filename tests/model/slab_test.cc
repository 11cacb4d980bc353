// The owner word and the remote list of a slab: the functions of slab_words.h, and
// around them what thread_cache/free.cc and shared_pool.h do with a slab, in short.
//
// The equations, when all threads have ended and all blocks were freed:
//   carved == used + blocks in the free map
//   blocks freed == blocks in the free map + blocks on the remote list
// A block comes back once; a slab is retired once, and not while anybody writes to
// its blocks; none is left with remote frees that nobody will look at.
#include "allocator/superslab/slab_words.h"

#include <gtest/gtest.h>

#include "tests/model/checker.h"
#include "tests/model/orders.h"

namespace hakmem::model {
namespace {

SlabOrders orders;  // weakened in turn

constexpr uint32_t kMaxBlocks = 2;

uintptr_t tag_of(uint32_t thread) { return owner::kFirstThread + thread; }

struct ModelSlab {
  ModelSlab(uintptr_t first_owner, uint32_t blocks)
      : owner("owner", first_owner), remote("remote"), used(blocks), used_word("used", blocks) {}

  Atomic<uintptr_t> owner;
  Atomic<uint64_t> remote;
  Data<uint32_t> used;
  Atomic<uint32_t> used_word;  // the same, for the pusher's guess, which is a data race meant to be
  Data<uint32_t> free_map;
  Data<uint32_t> links[kMaxBlocks];  // in the blocks: the list below, as the remote word has it
};

using Words = SlabWords<ModelSlab, orders>;

// A slab of `blocks` blocks, all of them with the program.
class SlabScenario {
 public:
  SlabScenario(uintptr_t first_owner, uint32_t blocks) : slab(first_owner, blocks), blocks_(blocks) {}

  void check() {
    uint32_t remote = RemoteList::count(slab.remote.load());
    uintptr_t owner_word = slab.owner.load();
    auto came_back = static_cast<uint32_t>(__builtin_popcount(slab.free_map));
    if (retired_ == 0) {
      require(blocks_ == slab.used + came_back, "carved == used + blocks in the free map");
      require(blocks_ == came_back + remote, "blocks freed == blocks in the free map + on the remote list");
    } else if (retired_ == 1 && is_used_anew_) {
      require(slab.used == 1 && remote == 0, "a slab used anew has its own blocks only");
    } else {
      require(retired_ == 1 && slab.used == 0 && remote == 0, "a slab is retired once, with all its blocks");
    }
    if (owner_word == owner::kUnowned) require(remote == 0, "no free stays in a slab that nobody owns");
    if (owner_word == owner::kPooled) require(remote < slab.used, "an empty slab does not stay in the pool");
  }

 protected:
  void set_used(uint32_t used) {
    slab.used = used;
    if (is_for_pool) slab.used_word.store(used, std::memory_order_relaxed);
  }

  void put_free(uint32_t block) {
    require((slab.free_map >> block & 1) == 0, "a block comes back once");
    slab.free_map = slab.free_map | 1u << block;
  }

  // The owner's writes before it turns away.
  void settle() { set_used(slab.used); }

  void collect() {
    uint64_t word = Words::collect(slab);
    uint32_t count = RemoteList::count(word);
    for (uint32_t i = 0; i < count; ++i) {
      auto block = static_cast<uint32_t>(RemoteList::offset(word) / kBlockAlignment);
      put_free(block);
      word = slab.links[block];
    }
    if (count > 0) set_used(slab.used - count);
  }

  bool claim(uint32_t thread) {
    if (!Words::claim(slab, tag_of(thread))) return false;
    collect();
    return true;
  }

  bool abandon(uint32_t thread) { return Words::disown(slab) || !claim(thread); }

  void place(uint32_t thread) {
    if (slab.used == 0) retire(thread);
  }

  // The blocks' memory may be anything from here on.
  void retire(uint32_t thread) {
    require(retired_ == 0 && slab.used == 0, "a slab is retired once, with all its blocks");
    retired_ = 1;
    for (Data<uint32_t>& link : slab.links) link = ~0u;
    if (!uses_anew) {
      slab.owner.store(owner::kFree, std::memory_order_relaxed);
      return;
    }
    // Taken for another class, and full at once.
    is_used_anew_ = true;
    slab.free_map = 0;
    set_used(1);
    slab.owner.store(tag_of(thread), std::memory_order_relaxed);
    if (!abandon(thread)) require(slab.used == 1, "a slab used anew has its own blocks only");
  }

  void push(uint32_t thread, uint32_t block) {
    auto offset = static_cast<uint32_t>(block * kBlockAlignment);
    uint64_t pushed = Words::push(slab, offset, [&](uint64_t old) { slab.links[block] = static_cast<uint32_t>(old); });
    uintptr_t now = Words::owner_after_push(slab);
    if (now == owner::kUnowned && claim(thread)) return place(thread);
    if (now == owner::kPooled && RemoteList::count(pushed) == slab.used_word.load(std::memory_order_relaxed) &&
        take_if_empty()) {
      set_used(0);
      slab.remote.store(0, std::memory_order_relaxed);
      retire(thread);
    }
  }

  void give_back(uint32_t thread, uint32_t block) {
    if (slab.owner.load(std::memory_order_relaxed) == owner::kUnowned && claim(thread)) {
      put_free(block);
      set_used(slab.used - 1);
      return place(thread);
    }
    push(thread, block);
  }

  void give_to_pool(uint32_t thread) {
    pool.lock();
    bool is_given = Words::put_into_pool(slab, slab.used);
    if (is_given) is_pooled_ = true;
    pool.unlock();
    if (is_given) return;
    collect();
    retire(thread);
  }

  bool take_from_pool(uint32_t thread) {
    pool.lock();
    bool is_taken = is_pooled_;
    if (is_taken) Words::take_from_pool(slab, tag_of(thread));
    is_pooled_ = false;
    pool.unlock();
    return is_taken;
  }

  bool take_if_empty() {
    pool.lock();
    bool is_empty = Words::is_emptied(slab, [&] { return slab.used.get(); });
    if (is_empty) {
      require(is_pooled_, "the pool has what is pooled");
      is_pooled_ = false;
      Words::take_from_pool(slab, owner::kFree);
    }
    pool.unlock();
    return is_empty;
  }

  ModelSlab slab;
  Lock pool{"pool"};
  bool uses_anew = false;
  bool is_for_pool = false;  // or nobody guesses at `used`

 private:
  uint32_t blocks_;
  Data<bool> is_pooled_{false};
  Data<uint32_t> retired_{0};
  Data<bool> is_used_anew_{false};
};

// The owner refills from the slab while two others free into it.
struct OwnerCollects : SlabScenario {
  static constexpr uint32_t kThreads = 3;
  OwnerCollects() : SlabScenario(tag_of(0), 2) {}
  void thread(uint32_t index) { index == 0 ? collect() : push(index, index - 1); }
};

// The owner turns away from the exhausted slab while two others free into it.
struct OwnerTurnsAway : SlabScenario {
  static constexpr uint32_t kThreads = 3;
  OwnerTurnsAway() : SlabScenario(tag_of(0), 2) {}
  void thread(uint32_t index) {
    if (index != 0) return give_back(index, index - 1);
    settle();
    if (!abandon(index)) place(index);
  }
};

// Who frees the last block has emptied the slab; it is cut anew, filled, and abandoned once
// more before the other has looked.
struct UsedAnew : SlabScenario {
  static constexpr uint32_t kThreads = 3;
  UsedAnew() : SlabScenario(tag_of(0), 2) { uses_anew = true; }
  void thread(uint32_t index) {
    if (index != 0) return give_back(index, index - 1);
    settle();
    if (!abandon(index)) place(index);
  }
};

// The owner gives the slab to the pool while others free the last two blocks.
struct Pooled : SlabScenario {
  static constexpr uint32_t kThreads = 3;
  Pooled() : SlabScenario(tag_of(0), 2) { is_for_pool = true; }
  void thread(uint32_t index) {
    if (index != 0) return push(index, index - 1);
    settle();
    give_to_pool(index);
  }
};

// One thread gives the slab to the pool, another adopts it, a third frees its blocks meanwhile.
struct Adopted : SlabScenario {
  static constexpr uint32_t kThreads = 3;
  Adopted() : SlabScenario(tag_of(0), 2) { is_for_pool = true; }
  void thread(uint32_t index) {
    switch (index) {
      case 0: settle(); return give_to_pool(0);
      case 1: push(1, 0); return push(1, 1);
      default:
        if (!take_from_pool(2)) return;
        collect();
        place(2);
    }
  }
};

// The slab is given, adopted with one block free and given again: who pushed in its first time
// there may look in the second, and find it emptied by somebody else.
struct PooledTwice : SlabScenario {
  static constexpr uint32_t kThreads = 3;
  PooledTwice() : SlabScenario(tag_of(0), 2) { is_for_pool = true; }
  void thread(uint32_t index) {
    if (index != 0) return push(index, index - 1);
    settle();
    give_to_pool(0);
    if (!take_from_pool(0)) return;
    collect();
    slab.used == 0 ? retire(0) : give_to_pool(0);
  }
};

const std::vector<NamedScenario> kScenarios = {
    {"the owner collects", &explore<OwnerCollects>},
    {"adopted", &explore<Adopted>},
    {"pooled", &explore<Pooled>},
    {"pooled twice", &explore<PooledTwice>},
    {"the owner turns away", &explore<OwnerTurnsAway>},
    {"used anew", &explore<UsedAnew>},
};

const std::vector<NamedOrder> kOrders = {
    {"claim", &orders.claim, Access::Exchange},
    {"push", &orders.push, Access::Exchange},
    {"look_after_push", &orders.look_after_push, Access::Load},
    {"collect", &orders.collect, Access::Exchange},
    {"disown", &orders.disown, Access::Store},
    {"look_after_disown", &orders.look_after_disown, Access::Load},
    {"pool", &orders.pool, Access::Store},
    {"look_after_pool", &orders.look_after_pool, Access::Load},
    {"is_emptied", &orders.is_emptied, Access::Load},
};

TEST(Slab, HoldsInEveryRun) { expect_holds(kScenarios); }
TEST(Slab, EachOrderIsNeeded) { expect_each_is_needed(kOrders, kScenarios); }

}  // namespace
}  // namespace hakmem::model
