// Tiny objects: bursts of one size of 8 to 128 bytes, freed first in first out,
// last in first out, or every second one first. The heap is a few hundred KiB at
// most, so that what counts is the shortest way through malloc and free.
#include <algorithm>
#include <array>
#include <span>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t rounds, seed;
};

constexpr uint32_t kLargest = 128;
// One object at a time up to more than thread caches hold.
constexpr std::array<size_t, 5> kBursts{1, 25, 100, 400, 1600};

enum class Order { kFirstInFirstOut, kLastInFirstOut, kEverySecondFirst };

void free_in(Order order, std::span<void*> objects, bench::Result& result) {
  switch (order) {
    case Order::kFirstInFirstOut:
      for (void* object : objects) result.free(object);
      break;
    case Order::kLastInFirstOut:
      for (size_t i = objects.size(); i > 0; --i) result.free(objects[i - 1]);
      break;
    case Order::kEverySecondFirst:
      for (size_t first : {0u, 1u})
        for (size_t i = first; i < objects.size(); i += 2) result.free(objects[i]);
      break;
  }
}

bench::Result run_tiny(const Parameters& parameters) {
  bench::Random random(parameters.seed);
  bench::Result result{};
  std::array<void*, kBursts.back()> objects;
  for (uint64_t round = 0; round < parameters.rounds; ++round) {
    uint32_t bytes = random.between(bench::kSmallestBlock, kLargest);
    for (size_t length : kBursts) {
      auto order = static_cast<Order>(random.below(3));
      // As many objects of each length of burst.
      for (size_t burst = 0; burst < kBursts.back() / length; ++burst) {
        std::span<void*> part(objects.data(), length);
        for (void*& object : part) object = bench::allocate_block(bytes, random.content());
        free_in(order, part, result);
        result.operations += length;
      }
    }
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .rounds = options.number("rounds", 3'000),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("tiny", [&] { return run_tiny(parameters); });
}
