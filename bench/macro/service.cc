// A service: many threads answer requests, each with blocks of all sizes that it
// frees as it ends, and now and then one replaces an entry of a store that all
// share. Little is live; what is measured is what each thread keeps of each size.
#include <array>
#include <mutex>
#include <utility>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t threads, requests, store, store_period, seed;
};

constexpr size_t kBlocks = 60;     // of a request
constexpr size_t kShortLived = 3;  // one in so many of them is freed at once

// Mostly small, up to 64 KiB: log-uniform below a bound that is drawn itself.
uint32_t draw_size(bench::Random& random) { return random.log_uniform(16, 16u << random.below(12)); }

// Each entry has a lock of its own, and is freed by whoever replaces it.
class Store {
 public:
  explicit Store(size_t entries) : entries_(entries) {}

  void replace(bench::Random& random, bench::Result& result) {
    Entry& entry = entries_[random.below(entries_.size())];
    uint32_t content = random.content();
    void* block = bench::allocate_block(random.server_size(), content);
    void* before;
    {
      std::lock_guard lock(entry.mutex);
      before = std::exchange(entry.block, block);
    }
    if (before != nullptr) result.free(before);
    ++result.operations;
  }
  void clear(bench::Result& result) {
    for (Entry& entry : entries_)
      if (entry.block != nullptr) result.free(entry.block);
  }

 private:
  struct Entry {
    std::mutex mutex;
    void* block = nullptr;
  };
  std::vector<Entry> entries_;
};

void answer(bench::Random& random, bench::Result& result) {
  std::array<void*, kBlocks> blocks;
  for (size_t i = 0; i < kBlocks; ++i) {
    uint32_t content = random.content();
    blocks[i] = bench::allocate_block(draw_size(random), content);
    if (i % kShortLived == 0) result.free(std::exchange(blocks[i], nullptr));
  }
  for (void* block : blocks)
    if (block != nullptr) result.free(block);
  result.operations += kBlocks;
}

bench::Result run_service(const Parameters& parameters) {
  Store store(parameters.store);
  bench::Result result = bench::run_threads(parameters.threads, [&](uint64_t thread) {
    bench::Random random(parameters.seed + thread);
    bench::Result own{};
    for (uint64_t i = 0; i < parameters.requests; ++i) {
      answer(random, own);
      if (random.once_in(parameters.store_period)) store.replace(random, own);
    }
    return own;
  });
  store.clear(result);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .threads = options.number("threads", 16),
      .requests = options.number("requests", 6000),
      .store = options.number("store", 4096),
      .store_period = options.number("store-period", 2),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("service", [&] { return run_service(parameters); });
}
