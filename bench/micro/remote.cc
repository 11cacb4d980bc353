// Remote frees: one thread allocates, another frees. The two take turns with a
// thousand blocks each, so that the hand-over is little beside the work.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <semaphore>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBlocks = 1000;

void remote_free(benchmark::State& state) {
  size_t bytes = static_cast<size_t>(state.range(0));
  std::vector<void*> blocks(kBlocks);
  std::binary_semaphore filled(0), emptied(0);
  bool stop = false;
  std::thread remote([&] {
    for (;;) {
      filled.acquire();
      if (stop) return;
      for (void* block : blocks) std::free(block);
      emptied.release();
    }
  });
  for (auto _ : state) {
    for (void*& block : blocks) block = std::malloc(bytes);
    filled.release();
    emptied.acquire();
  }
  stop = true;
  filled.release();
  remote.join();
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kBlocks));
}
BENCHMARK(remote_free)->Arg(16)->Arg(256)->Arg(2048)->UseRealTime();

}  // namespace
