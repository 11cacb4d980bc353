// Counters that move into the stats page while threads count, and figures that are
// published while others read.
#include <gtest/gtest.h>

#include "allocator/metrics/counters.h"
#include "telemetry/publication.h"
#include "tests/model/checker.h"
#include "tests/model/orders.h"

namespace hakmem::model {
namespace {

// -- counters: none is lost, and none goes where no shard is mapped -------------------------------

metrics::SinkOrders sink_orders;

// A pointer to a shard: which mapping, and which shard of it.
struct ShardPointer {
  uint16_t mapping;
  uint16_t shard;
  ShardPointer operator+(uint32_t shards) const { return {mapping, static_cast<uint16_t>(shard + shards)}; }
};

struct ModelSink {
  Atomic<ShardPointer> shards{"shards"};
  Atomic<uint32_t> shard_mask{"shard_mask"};
};

// The publisher makes the page of two shards, moves the counters there, and lets it
// grow to four. Two threads count meanwhile, where a shard is their own as one who adds alone.
struct CountersMove {
  static constexpr uint32_t kThreads = 3;
  using Sink = metrics::SinkWords<ModelSink, sink_orders>;

  void thread(uint32_t index) {
    if (index != 0) {
      count(index);
      if (index == 1) count(index);
      return;
    }
    is_mapped[1] = true;
    Sink::grow(sink, ShardPointer{1, 0}, 2);
    Sink::drain(initial, page, 1);
    is_mapped[2] = true;
    Sink::grow(sink, ShardPointer{2, 0}, 4);
  }

  void count(uint32_t number) {
    auto [where, is_own] = Sink::place(sink, number, 1);
    require(where.shard < kShards[where.mapping], "no count goes behind the mapping");
    if (where.mapping > 0) require(is_mapped[where.mapping], "no count goes before the mapping is made");
    Atomic<uint64_t>& slot = (where.mapping == 0 ? initial : page)[where.shard];
    if (is_own)
      slot.store(slot.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    else
      slot.fetch_add(1, std::memory_order_relaxed);
  }

  void check() {
    Sink::drain(initial, page, 1);  // as the publisher does at each look
    require(initial[0].load() == 0 && page[0].load() + page[1].load() + page[2].load() == 3,
            "counts made == counts in the page");
  }

  static constexpr uint16_t kShards[] = {1, 2, 4};
  ModelSink sink;
  Data<bool> is_mapped[3];
  Atomic<uint64_t> initial[1]{Atomic<uint64_t>("initial shard")};
  Atomic<uint64_t> page[3]{Atomic<uint64_t>("page, shard 0"), Atomic<uint64_t>("page, shard 1"),
                           Atomic<uint64_t>("page, shard 2")};
};

const std::vector<NamedScenario> kCounterScenarios = {{"counters move", &explore<CountersMove>}};
const std::vector<NamedOrder> kCounterOrders = {
    {"read_mask", &sink_orders.read_mask, Access::Load},
    {"read_shards", &sink_orders.read_shards, Access::Load},
    {"move", &sink_orders.move, Access::Store},
    {"grow", &sink_orders.grow, Access::Store},
};

TEST(Counters, HoldsInEveryRun) { expect_holds(kCounterScenarios); }
TEST(Counters, EachOrderIsNeeded) { expect_each_is_needed(kCounterOrders, kCounterScenarios); }

// -- publication: what is read whole is of one moment, and a page that has its magic is all there -

telemetry::PublicationOrders publication_orders;
using Publication = telemetry::Publication<Fence, publication_orders>;

struct FiguresArePublished {
  static constexpr uint32_t kThreads = 2;  // readers do not meet: one is as good as many

  void thread(uint32_t index) {
    if (index == 0) {
      publish(1);
      publish(2);
      return;
    }
    uint64_t first = 0;
    uint64_t second = 0;
    telemetry::Reading reading = Publication::read(
        [&](uint64_t* value) {
          *value = epoch.load(std::memory_order_relaxed);
          return true;
        },
        [&] {
          first = figures[0].load(std::memory_order_relaxed);
          second = figures[1].load(std::memory_order_relaxed);
          return true;
        });
    if (reading == telemetry::Reading::Whole) require(first == second, "figures of one moment are equal");
  }

  void publish(uint64_t value) {
    Publication::publish(epoch, [&] {
      for (auto& figure : figures) figure.store(value, std::memory_order_relaxed);
    });
  }

  void check() { require(epoch.load() == 4, "the epoch is even, and two for each publication"); }

  Atomic<uint64_t> epoch{"epoch"};
  Atomic<uint64_t> figures[2]{Atomic<uint64_t>("first figure"), Atomic<uint64_t>("second figure")};
};

struct PageIsFinished {
  static constexpr uint32_t kThreads = 2;
  static constexpr uint64_t kMagic = 1;

  void thread(uint32_t index) {
    if (index == 0) {
      header.store(7, std::memory_order_relaxed);
      Publication::finish(magic, kMagic);
      return;
    }
    uint64_t read_magic = 0;
    uint64_t read_header = 0;
    Publication::read_finished(
        [&] {
          read_magic = magic.load(std::memory_order_relaxed);
          return true;
        },
        [&] {
          read_header = header.load(std::memory_order_relaxed);
          return true;
        });
    if (read_magic == kMagic) require(read_header == 7, "a page with its magic is complete");
  }

  void check() { require(magic.load() == kMagic, "the page is finished"); }

  Atomic<uint64_t> magic{"magic"};
  Atomic<uint64_t> header{"header"};
};

const std::vector<NamedScenario> kPublicationScenarios = {
    {"figures are published", &explore<FiguresArePublished>},
    {"the page is finished", &explore<PageIsFinished>},
};
const std::vector<NamedOrder> kPublicationOrders = {
    {"begin", &publication_orders.begin, Access::Fence},
    {"end", &publication_orders.end, Access::Store},
    {"read_begin", &publication_orders.read_begin, Access::Fence},
    {"read_end", &publication_orders.read_end, Access::Fence},
    {"finish", &publication_orders.finish, Access::Store},
    {"read_finish", &publication_orders.read_finish, Access::Fence},
};

TEST(Publication, HoldsInEveryRun) { expect_holds(kPublicationScenarios); }
TEST(Publication, EachOrderIsNeeded) { expect_each_is_needed(kPublicationOrders, kPublicationScenarios); }

}  // namespace
}  // namespace hakmem::model
