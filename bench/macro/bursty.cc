// Malloc storms: a burst allocates many blocks of one band of sizes, frees them
// all, and the program then does something else. Bursts differ in length, in
// sizes and in the order of frees, so what one left behind has to serve the
// next, of other sizes, without the heap growing.
#include <algorithm>
#include <array>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t bursts, blocks, work, seed;
};

struct SizeBand {
  uint32_t smallest, largest;
};

// Small strings, nodes, records, buffers: a burst draws from one of them.
constexpr std::array<SizeBand, 4> kBands{{{16, 64}, {48, 256}, {128, 512}, {24, 1024}}};

// Walks over a buffer larger than the first caches, as other work of the
// program does: the next burst starts with cold ones.
uint64_t other_work(std::vector<uint64_t>& buffer, uint64_t passes) {
  uint64_t sum = 0;
  for (uint64_t pass = 0; pass < passes; ++pass)
    for (uint64_t& word : buffer) sum += word = word * 6364136223846793005u + pass;
  return sum;
}

uint64_t free_all(std::vector<void*>& blocks, uint64_t burst, bench::Random& random) {
  switch (burst % 3) {
    case 0: break;  // first in, first out
    case 1: std::reverse(blocks.begin(), blocks.end()); break;
    default:
      for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(i)]);
  }
  uint64_t checksum = 0;
  for (void* block : blocks) checksum += bench::free_block(block);
  return checksum;
}

bench::Result run_bursts(const Parameters& parameters) {
  bench::Random random(parameters.seed);
  bench::Result result{};
  std::vector<uint64_t> buffer(128 * 1024, 1);
  std::vector<void*> blocks;
  blocks.reserve(parameters.blocks);
  for (uint64_t burst = 0; burst < parameters.bursts; ++burst) {
    const SizeBand& band = kBands[burst % kBands.size()];
    uint64_t length = random.between((parameters.blocks + 3) / 4, parameters.blocks);
    blocks.clear();
    for (uint64_t i = 0; i < length; ++i)
      blocks.push_back(bench::allocate_random_block(random, band.smallest, band.largest));
    result.checksum += free_all(blocks, burst, random);
    result.operations += 2 * length;
    result.checksum += other_work(buffer, parameters.work);
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .bursts = options.number("bursts", 60),
      .blocks = options.number("blocks", 200'000),
      .work = options.number("work", 8),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("bursty", [&] { return run_bursts(parameters); });
}
