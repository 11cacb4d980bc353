// Batches for anyone: producers allocate batches of blocks and put them into one
// queue; whichever consumer is there first frees all blocks at once, the batch
// itself included. Unlike in `crossthread` nobody keeps anything: the heap is
// small, and all that is measured is the way of a block back to its owner.
#include <array>
#include <memory>

#include "bench/macro/queue.h"
#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t pairs, batches, depth, seed;
};

constexpr size_t kBatch = 100;
using Batch = std::array<void*, kBatch>;

// 16 bytes to 2 KiB, log-uniform.
constexpr uint32_t kSmallest = 16;
constexpr uint32_t kLargest = 2048;

bench::Result run_batches(const Parameters& parameters) {
  bench::Queue<std::unique_ptr<Batch>> queue(parameters.depth);
  uint64_t share = parameters.batches / parameters.pairs;
  return bench::run_threads(2 * parameters.pairs, [&](uint64_t thread) {
    bench::Random random(parameters.seed + thread);
    bench::Result result{};
    bool produces = thread % 2 == 0;
    for (uint64_t i = 0; i < share; ++i) {
      if (produces) {
        auto batch = std::make_unique<Batch>();
        for (void*& block : *batch) {
          uint32_t content = random.content();
          block = bench::allocate_block(random.log_uniform(kSmallest, kLargest / 2), content);
        }
        queue.push(std::move(batch));
        result.operations += kBatch;
      } else {
        std::unique_ptr<Batch> batch = queue.pop();
        for (void* block : *batch) result.free(block);
      }
    }
    return result;
  });
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .pairs = options.number("pairs", 2),
      .batches = options.number("batches", 40'000),
      .depth = options.number("depth", 64),
      .seed = options.number("seed", 1),
  };
  options.finish();
  if (parameters.batches < parameters.pairs) bench::fail("fewer batches than pairs of threads");
  return bench::run("batches", [&] { return run_batches(parameters); });
}
