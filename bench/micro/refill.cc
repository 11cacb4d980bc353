// New memory, by what it takes to get it: a new mapping, a run of pages cut out
// of one, blocks carved out of a run and touched for the first time, and for
// comparison blocks that were just freed. Through malloc and free alone, so
// that every allocator does what it does.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

namespace {

// Allocates up to the end, so that no address is used twice; nothing is touched.
constexpr int64_t kMaps = 4096;

void refill_map(benchmark::State& state) {
  size_t bytes = static_cast<size_t>(state.range(0));
  std::vector<void*> blocks;
  blocks.reserve(kMaps);
  for (auto _ : state) blocks.push_back(std::malloc(bytes));
  if (blocks.back() == nullptr) state.SkipWithError("out of memory");
  for (void* block : blocks) std::free(block);
}
BENCHMARK(refill_map)->Arg(1 << 20)->Iterations(kMaps);

// Runs of pages, a block each, cut and put together again in another order.
void refill_cut(benchmark::State& state) {
  constexpr size_t kRuns = 64;
  size_t bytes = static_cast<size_t>(state.range(0));
  std::vector<void*> blocks(kRuns);
  for (auto _ : state) {
    for (void*& block : blocks) block = std::malloc(bytes);
    benchmark::DoNotOptimize(blocks.data());
    // 29 and 64 have no common factor: every run, none beside the one before.
    for (size_t i = 0; i < kRuns; ++i) std::free(blocks[i * 29 % kRuns]);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kRuns));
}
BENCHMARK(refill_cut)->Arg(300'000);

// Four MiB of blocks; their frees are not in the time.
template <class BetweenRounds>
void allocate_rounds(benchmark::State& state, BetweenRounds between) {
  size_t bytes = static_cast<size_t>(state.range(0));
  std::vector<void*> blocks((4u << 20) / bytes);
  for (auto _ : state) {
    for (void*& block : blocks) {
      block = std::malloc(bytes);
      *static_cast<volatile char*>(block) = 1;
    }
    state.PauseTiming();
    for (void* block : blocks) std::free(block);
    between();
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(blocks.size()));
}

// The pages went back to the kernel: page faults, then carving. (Of the peers
// only the C library knows malloc_trim.)
void refill_carve(benchmark::State& state) {
  allocate_rounds(state, [] { malloc_trim(0); });
}
BENCHMARK(refill_carve)->Arg(16)->Arg(64)->Arg(1024)->Arg(16 << 10);

void refill_reuse(benchmark::State& state) {
  allocate_rounds(state, [] {});
}
BENCHMARK(refill_reuse)->Arg(16)->Arg(64)->Arg(1024)->Arg(16 << 10);

}  // namespace
