// Memory goes back to the kernel all the time, while threads allocate what was given back, free each other's
// blocks, start and end.
#include <malloc.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kThreads = 4;
const size_t kWaves = rounds(120, 20);

struct Block {
  void* address;
  size_t size;
  uint64_t tag;
};

// Blocks that one wave of a thread left to whoever comes next.
std::atomic<std::vector<Block>*> left_behind[kThreads];

void release(std::vector<Block>* blocks) {
  if (blocks == nullptr) return;
  for (const Block& block : *blocks) {
    check_content(block.address, block.size, block.tag);
    free(block.address);
  }
  delete blocks;
}

// Many of one size, so that whole slabs become free, or few large and huge ones.
void wave(Random& random) {
  auto* blocks = new std::vector<Block>;
  bool is_zeroed = random.below(4) == 0;
  size_t most = random.log_uniform_size(random.below(4) == 0 ? 22 : 14);
  for (size_t bytes = 0; bytes < rounds(3 * kMiB, 4); bytes += most) {
    size_t size = most - random.below((most + 7) / 8);
    void* address = is_zeroed ? calloc(1, size) : malloc(size);
    CHECK(address != nullptr);
    if (is_zeroed && size <= 64 * kKiB) check_zero(address, size);
    uint64_t tag = random.next();
    fill_content(address, size, tag);
    blocks->push_back({address, size, tag});
  }
  release(left_behind[random.below(kThreads)].exchange(blocks));
}

void run_waves(uint64_t seed) {
  Random random(seed);
  for (size_t i = 0; i < kWaves; ++i) {
    wave(random);
    if (i % 8 == 0) std::thread([&random] { wave(random); }).join();
    if (i % 16 == 0) malloc_trim(0);
  }
}

}  // namespace
}  // namespace stress

int main() {
  using namespace stress;
  require_hakmem();
  std::atomic<size_t> running{kThreads};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i)
    threads.emplace_back([i, &running] {
      run_waves(i);
      --running;
    });
  size_t trims = 0;
  for (; running > 0; ++trims) {
    malloc_trim(0);
    sleep_milliseconds(2);
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& blocks : left_behind) release(blocks.exchange(nullptr));
  printf("%zu trims beside %zu threads\n", trims, kThreads);
  return passed("purge_storm");
}
