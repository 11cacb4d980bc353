// Thread churn: many short threads, as of a server with a thread a connection.
// Each works with blocks of its own, frees what an earlier thread left to it,
// leaves as much behind and ends. What a dead thread had cached, and the memory
// its blocks stand in, must come to serve the threads after it.
#include <optional>
#include <thread>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t threads, alive, parcels, blocks, working_set, operations, seed;
};

// Blocks that one thread leaves to a later one.
using Parcel = std::vector<void*>;

bench::Result live_a_short_life(const Parameters& parameters, Parcel& parcel, uint64_t thread) {
  bench::Random random(parameters.seed + thread);
  bench::Result result{};
  std::vector<void*> own(parameters.working_set, nullptr);
  for (uint64_t i = 0; i < parameters.operations; ++i) {
    void*& slot = own[random.below(own.size())];
    uint32_t content = random.content();
    result.replace(slot, random.server_size(), content);
  }
  for (void*& block : parcel) {
    uint32_t content = random.content();
    result.replace(block, random.server_size(), content);
  }
  result.free_all(own);
  return result;
}

bench::Result run_churn(const Parameters& parameters) {
  bench::Result sum{};
  std::vector<std::optional<std::thread>> workers(parameters.alive);
  std::vector<bench::Result> results(parameters.alive);
  std::vector<Parcel> parcels(parameters.parcels, Parcel(parameters.blocks, nullptr));
  // Thread i follows i - alive, so that it takes over its parcel from a thread
  // that has ended: which one does not depend on scheduling.
  for (uint64_t i = 0; i < parameters.threads + parameters.alive; ++i) {
    std::optional<std::thread>& worker = workers[i % parameters.alive];
    bench::Result& result = results[i % parameters.alive];
    if (worker) {
      worker->join();
      worker.reset();
      sum += result;
    }
    if (i < parameters.threads)
      worker.emplace([&, i] { result = live_a_short_life(parameters, parcels[i % parcels.size()], i); });
  }
  for (Parcel& parcel : parcels) sum.free_all(parcel);
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .threads = options.number("threads", 6'000),
      .alive = options.number("alive", 4),
      .parcels = options.number("parcels", 512),
      .blocks = options.number("blocks", 200),
      .working_set = options.number("working-set", 50),
      .operations = options.number("operations", 300),
      .seed = options.number("seed", 1),
  };
  options.finish();
  if (parameters.parcels < parameters.alive) bench::fail("fewer parcels than threads alive");
  return bench::run("churn", [&] { return run_churn(parameters); });
}
