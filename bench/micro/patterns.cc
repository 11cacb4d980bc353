// Many blocks at a time: a thousand allocated, then freed in an order, and
// steady replacement among many live ones. Time is for the whole batch.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

namespace {

constexpr size_t kBlocks = 1000;

// Sizes of 8 to 128 bytes by turns.
size_t mixed_size(size_t i) { return 8 + (i * 37) % 121; }

enum class Order { Fifo, Lifo, Random };

std::vector<uint32_t> free_order(Order order) {
  std::vector<uint32_t> indices(kBlocks);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order == Order::Lifo) {
    for (size_t i = 0; i < kBlocks / 2; ++i) std::swap(indices[i], indices[kBlocks - 1 - i]);
  } else if (order == Order::Random) {
    uint64_t state = 1;
    for (size_t i = kBlocks; i > 1; --i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(indices[i - 1], indices[(state >> 33) % i]);
    }
  }
  return indices;
}

template <class SizeOf>
void run_batches(benchmark::State& state, Order order, SizeOf size_of) {
  std::vector<uint32_t> indices = free_order(order);
  std::vector<void*> blocks(kBlocks);
  for (auto _ : state) {
    for (size_t i = 0; i < kBlocks; ++i) blocks[i] = std::malloc(size_of(i));
    benchmark::DoNotOptimize(blocks.data());
    benchmark::ClobberMemory();
    for (uint32_t index : indices) std::free(blocks[index]);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kBlocks));
}

template <Order order>
void batch(benchmark::State& state) {
  run_batches(state, order, [bytes = static_cast<size_t>(state.range(0))](size_t) { return bytes; });
}
BENCHMARK(batch<Order::Fifo>)->Name("batch_fifo")->Arg(16)->Arg(256)->Arg(2048)->Arg(20'480);
BENCHMARK(batch<Order::Lifo>)->Name("batch_lifo")->Arg(16)->Arg(256);
BENCHMARK(batch<Order::Random>)->Name("batch_random")->Arg(16)->Arg(256);

template <Order order>
void batch_mixed(benchmark::State& state) {
  run_batches(state, order, mixed_size);
}
BENCHMARK(batch_mixed<Order::Fifo>)->Name("batch_fifo/8-128");
BENCHMARK(batch_mixed<Order::Lifo>)->Name("batch_lifo/8-128");
BENCHMARK(batch_mixed<Order::Random>)->Name("batch_random/8-128");
BENCHMARK(batch_mixed<Order::Random>)->Name("batch_random_threads/8-128")->ThreadRange(1, 8)->UseRealTime();

// Replaces one random block among range(0) live ones of 8 to 128 bytes.
void replace_among(benchmark::State& state) {
  std::vector<void*> blocks(static_cast<size_t>(state.range(0)));
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = std::malloc(mixed_size(i));
  uint64_t random = 1;
  for (auto _ : state) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    void*& block = blocks[(random >> 33) % blocks.size()];
    std::free(block);
    block = std::malloc(8 + (random >> 20) % 121);
    benchmark::DoNotOptimize(block);
  }
  for (void* block : blocks) std::free(block);
}
BENCHMARK(replace_among)->Arg(1'000)->Arg(16'000);

}  // namespace
