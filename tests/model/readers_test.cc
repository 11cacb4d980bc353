// What is read without a lock: the list of thread caches, and memory that nobody may
// unmap while a reader looks at it.
#include <gtest/gtest.h>

#include "allocator/superslab/readers.h"
#include "allocator/thread_cache/registry.h"
#include "tests/model/checker.h"
#include "tests/model/orders.h"

namespace hakmem::model {
namespace {

// -- the registry: whoever walks it finds caches that are made, each once -------------------------

RegistryOrders registry_orders;

struct CachesAreAdded {
  static constexpr uint32_t kThreads = 3;
  using List = Registry<registry_orders>;

  struct Cache {
    Data<uint32_t> made;
    Data<Cache*> next_registered;
  };

  void thread(uint32_t index) {
    if (index < 2) {
      caches[index].made = 1;
      lock.lock();
      List::add(first, &caches[index]);
      lock.unlock();
      return;
    }
    uint32_t count = 0;
    for (Cache* cache = List::first(first); cache != nullptr; cache = cache->next_registered) count += cache->made;
    require(count <= 2, "each cache is in the list once");
  }

  void check() {
    uint32_t count = 0;
    for (Cache* cache = first.load(); cache != nullptr; cache = cache->next_registered) count += cache->made;
    require(count == 2, "caches added == caches in the list");
  }

  Atomic<Cache*> first{"first"};
  Lock lock{"registry"};
  Cache caches[2];
};

const std::vector<NamedScenario> kRegistryScenarios = {{"caches are added", &explore<CachesAreAdded>}};
const std::vector<NamedOrder> kRegistryOrders = {
    {"add", &registry_orders.add, Access::Store},
    {"first", &registry_orders.first, Access::Load},
};

TEST(ThreadRegistry, HoldsInEveryRun) { expect_holds(kRegistryScenarios); }
TEST(ThreadRegistry, EachOrderIsNeeded) { expect_each_is_needed(kRegistryOrders, kRegistryScenarios); }

// -- readers: nothing is unmapped that a link still leads one of them to --------------------------

ReaderOrders reader_orders;

struct MemoryIsUnmapped {
  static constexpr uint32_t kThreads = 3;

  void thread(uint32_t index) {
    if (index == 0) {
      link.store(0, std::memory_order_relaxed);
      if (Readers<reader_orders>::are_none(count)) is_unmapped = true;
      return;
    }
    Readers<reader_orders>::enter(count);
    // The use of the memory; that it is unmapped meanwhile would be a data race.
    if (link.load(std::memory_order_relaxed) != 0) require(!is_unmapped, "nobody reads what is unmapped");
    Readers<reader_orders>::leave(count);
  }

  void check() { require(count.load() == 0, "readers entered == readers left"); }

  Atomic<uint32_t> count{"readers"};
  Atomic<uint32_t> link{"link", 1};
  Data<bool> is_unmapped;
};

const std::vector<NamedScenario> kReaderScenarios = {{"memory is unmapped", &explore<MemoryIsUnmapped>}};
const std::vector<NamedOrder> kReaderOrders = {
    {"enter", &reader_orders.enter, Access::Exchange},
    {"leave", &reader_orders.leave, Access::Exchange},
    {"are_none", &reader_orders.are_none, Access::Exchange},
};

TEST(Readers, HoldsInEveryRun) { expect_holds(kReaderScenarios); }
TEST(Readers, EachOrderIsNeeded) { expect_each_is_needed(kReaderOrders, kReaderScenarios); }

}  // namespace
}  // namespace hakmem::model
