// Large and huge blocks, 32 KiB to 32 MiB: images, columns, network buffers. A
// few are alive at once, each is kept a while, and most are touched in part
// only. It decides what a mapping costs, whether its pages serve the next block,
// and how much memory that nobody asked for stays resident.
#include <array>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t slots, operations, seed;
};

constexpr uint32_t kSmallest = 32 << 10;
constexpr uint32_t kLargest = 32 << 20;
// Eighths of a block that are written: small parts are as frequent as whole blocks.
constexpr std::array<uint32_t, 4> kTouchedEighths{1, 2, 4, 8};

bench::Result run_large(const Parameters& parameters) {
  bench::Random random(parameters.seed);
  bench::Result result{};
  std::vector<void*> slots(parameters.slots, nullptr);
  for (uint64_t i = 0; i < parameters.operations; ++i) {
    void*& slot = slots[random.below(slots.size())];
    if (slot != nullptr) result.free(slot);
    // Log-uniform: as much traffic below 1 MiB as above.
    uint32_t bytes = random.log_uniform(kSmallest, kLargest / 2);
    uint32_t touched = bytes / 8 * kTouchedEighths[random.below(kTouchedEighths.size())];
    slot = bench::fill_block(std::malloc(bytes), bytes, random.content(), touched);
    ++result.operations;
  }
  result.free_all(slots);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .slots = options.number("slots", 24),
      .operations = options.number("operations", 2'000),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("large", [&] { return run_large(parameters); });
}
