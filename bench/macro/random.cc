// Random allocation and free: slots are picked at random, a full one is freed,
// an empty one filled, so that half of them are live and neither the order of
// frees nor the mix of sizes has any locality an allocator could rely on.
#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t slots, operations, smallest, largest, large_period, large, seed;
};

// Mostly uniform between the bounds; one in `large_period` is larger.
uint32_t draw_size(const Parameters& parameters, bench::Random& random) {
  if (random.once_in(parameters.large_period)) return random.between(parameters.largest, parameters.large);
  return random.between(parameters.smallest, parameters.largest);
}

bench::Result run_random(const Parameters& parameters) {
  bench::Random random(parameters.seed);
  bench::Result result{};
  std::vector<void*> slots(parameters.slots, nullptr);
  for (uint64_t i = 0; i < parameters.operations; ++i) {
    void*& slot = slots[random.below(slots.size())];
    if (slot != nullptr) {
      result.free(slot);
      slot = nullptr;
    } else {
      uint32_t content = random.content();
      result.replace(slot, draw_size(parameters, random), content);
    }
  }
  result.free_all(slots);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .slots = options.number("slots", 100'000),
      .operations = options.number("operations", 20'000'000),
      .smallest = options.number("smallest", 16),
      .largest = options.number("largest", 1024),
      .large_period = options.number("large-period", 50),
      .large = options.number("large", 32'768),
      .seed = options.number("seed", 1),
  };
  options.finish();
  bench::check_sizes(parameters.smallest, parameters.largest);
  bench::check_sizes(parameters.largest, parameters.large);
  return bench::run("random", [&] { return run_random(parameters); });
}
