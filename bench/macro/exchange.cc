// Exchange of ownership: threads replace blocks of all sizes in tables of their
// own and swap some with a table that all share, so that any thread may free any
// block, in no order. A phase retains blocks until the end of the next one; each
// phase has new threads, and frees what the last but one retained.
#include <atomic>
#include <utility>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t threads, phases, operations, own, shared, swap_period, retain_period, seed;
};

using Shared = std::vector<std::atomic<void*>>;

class Thread {
 public:
  explicit Thread(const Parameters& parameters) : own_(parameters.own, nullptr) {}

  bench::Result run_phase(const Parameters& parameters, Shared& shared, bench::Random random) {
    bench::Result result{};
    std::vector<void*> retained;
    for (uint64_t i = 0; i < parameters.operations; ++i) {
      void*& slot = own_[random.below(own_.size())];
      // All draws come first: what a thread finds depends on the others, what it does must not.
      bool swap = random.once_in(parameters.swap_period);
      bool retain = random.once_in(parameters.retain_period);
      std::atomic<void*>& place = shared[random.below(shared.size())];
      uint32_t content = random.content();
      uint32_t bytes = draw_size(random);
      if (swap) slot = place.exchange(slot, std::memory_order_acq_rel);
      if (retain && slot != nullptr) retained.push_back(std::exchange(slot, nullptr));
      result.replace(slot, bytes, content);
    }
    retained_.swap(retained);
    result.free_all(retained);
    return result;
  }

  void finish(bench::Result& result) {
    result.free_all(own_);
    result.free_all(retained_);
  }

 private:
  // A server's sizes, and one block in a thousand up to 256 KiB.
  static uint32_t draw_size(bench::Random& random) {
    return random.once_in(1000) ? random.between(16 << 10, 256 << 10) : random.server_size();
  }

  std::vector<void*> own_, retained_;
};

bench::Result run_exchange(const Parameters& parameters) {
  bench::Result sum{};
  Shared shared(parameters.shared);
  std::vector<Thread> threads(parameters.threads, Thread(parameters));
  for (uint64_t phase = 0; phase < parameters.phases; ++phase) {
    sum += bench::run_threads(parameters.threads, [&](uint64_t thread) {
      bench::Random random(parameters.seed + phase * parameters.threads + thread);
      return threads[thread].run_phase(parameters, shared, random);
    });
  }
  for (Thread& thread : threads) thread.finish(sum);
  for (std::atomic<void*>& place : shared)
    if (void* block = place.load()) sum.free(block);
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .threads = options.number("threads", 4),
      .phases = options.number("phases", 10),
      .operations = options.number("operations", 100'000),
      .own = options.number("own", 5'000),
      .shared = options.number("shared", 2'000),
      .swap_period = options.number("swap-period", 3),
      .retain_period = options.number("retain-period", 20),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("exchange", [&] { return run_exchange(parameters); });
}
