// Variable sizes that drift: blocks of 16 bytes to 64 KiB, log-uniform within a
// window that moves from the small end to the large end and back. Memory that
// served one range of sizes must come to serve another while part of the old
// blocks is still live.
#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t slots, operations, drifts, seed;
};

constexpr uint32_t kLowestOctave = 4;    // 16 bytes
constexpr uint32_t kHighestOctave = 15;  // blocks up to 2^16 - 1 bytes
constexpr uint32_t kWindowOctaves = 6;   // each power of two within it is equally likely
constexpr uint32_t kDriftOctaves = kHighestOctave - kLowestOctave + 1 - kWindowOctaves;

// Lowest octave of the window after `i` of `period` operations of one drift:
// up in the first half, down in the second.
uint32_t window_start(uint64_t i, uint64_t period) {
  uint64_t half = period / 2 + 1;
  uint64_t way = i < half ? i : period - i;
  return kLowestOctave + static_cast<uint32_t>(way * (kDriftOctaves + 1) / (half + 1));
}

bench::Result run_drifts(const Parameters& parameters) {
  bench::Random random(parameters.seed);
  bench::Result result{};
  std::vector<void*> slots(parameters.slots, nullptr);
  uint64_t period = parameters.operations / parameters.drifts;
  for (uint64_t drift = 0; drift < parameters.drifts; ++drift) {
    for (uint64_t i = 0; i < period; ++i) {
      void*& slot = slots[random.below(slots.size())];
      uint32_t octave = window_start(i, period);
      uint32_t bytes = random.log_uniform(1u << octave, 1u << (octave + kWindowOctaves - 1));
      result.replace(slot, bytes, random.content());
    }
  }
  result.free_all(slots);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .slots = options.number("slots", 6'000),
      .operations = options.number("operations", 6'000'000),
      .drifts = options.number("drifts", 6),
      .seed = options.number("seed", 1),
  };
  options.finish();
  if (parameters.drifts > parameters.operations) bench::fail("fewer operations than drifts");
  return bench::run("varsize", [&] { return run_drifts(parameters); });
}
