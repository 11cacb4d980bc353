// Mixed lifetimes: most blocks die after a few hundred operations, a few live
// for most of the run among them and hold on to the pages around. This is the
// shape of a server with requests and caches, and what decides fragmentation.
#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t threads, operations, short_lived, long_lived, long_period, seed;
};

bench::Result run_thread(const Parameters& parameters, uint64_t thread) {
  bench::Random random(parameters.seed + thread);
  bench::Result result{};
  // Short-lived blocks are overwritten at random within a small table, which
  // gives them a geometric lifetime; long-lived ones within a large table.
  std::vector<void*> short_lived(parameters.short_lived, nullptr);
  std::vector<void*> long_lived(parameters.long_lived, nullptr);
  for (uint64_t i = 0; i < parameters.operations; ++i) {
    auto& table = random.once_in(parameters.long_period) ? long_lived : short_lived;
    void*& slot = table[random.below(table.size())];
    uint32_t content = random.content();
    result.replace(slot, random.server_size(), content);
  }
  result.free_all(short_lived);
  result.free_all(long_lived);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .threads = options.number("threads", 2),
      .operations = options.number("operations", 8'000'000),
      .short_lived = options.number("short-lived", 1'000),
      .long_lived = options.number("long-lived", 60'000),
      .long_period = options.number("long-period", 16),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("mixed", [&] {
    return bench::run_threads(parameters.threads, [&](uint64_t thread) { return run_thread(parameters, thread); });
  });
}
