// One block at a time: what a malloc and its free cost when nothing else is in
// the way, by size, by kind of call, and with several threads.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>

namespace {

void malloc_free(benchmark::State& state) {
  size_t bytes = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    void* block = std::malloc(bytes);
    benchmark::DoNotOptimize(block);
    std::free(block);
  }
}
BENCHMARK(malloc_free)
    ->Arg(8)
    ->Arg(16)
    ->Arg(64)
    ->Arg(256)
    ->Arg(1 << 10)
    ->Arg(4 << 10)
    ->Arg(16 << 10)
    ->Arg(64 << 10)
    ->Arg(256 << 10)
    ->Arg(4 << 20);
// Threads that share nothing: anything above the first row is the allocator's.
BENCHMARK(malloc_free)->Name("malloc_free_threads")->Arg(64)->ThreadRange(1, 8)->UseRealTime();

void calloc_free(benchmark::State& state) {
  size_t bytes = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    void* block = std::calloc(1, bytes);
    benchmark::DoNotOptimize(block);
    std::free(block);
  }
}
BENCHMARK(calloc_free)->Arg(64)->Arg(4 << 10)->Arg(64 << 10)->Arg(4 << 20);

void aligned_alloc_free(benchmark::State& state) {
  size_t alignment = static_cast<size_t>(state.range(0));
  size_t bytes = static_cast<size_t>(state.range(1));
  for (auto _ : state) {
    void* block = std::aligned_alloc(alignment, bytes);
    benchmark::DoNotOptimize(block);
    std::free(block);
  }
}
BENCHMARK(aligned_alloc_free)->Args({64, 64})->Args({64, 1024})->Args({4096, 4096})->Args({4096, 65536});

// A buffer that doubles until it holds range(0) bytes, as a string or a vector
// read from a socket does; one item is the whole growth. Only the new half is
// written.
void realloc_grow(benchmark::State& state) {
  size_t limit = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    size_t bytes = 16;
    auto* buffer = static_cast<unsigned char*>(std::malloc(bytes));
    while (bytes < limit) {
      void* grown = std::realloc(buffer, 2 * bytes);
      if (grown == nullptr) {
        state.SkipWithError("realloc failed");
        break;
      }
      buffer = static_cast<unsigned char*>(grown);
      std::memset(buffer + bytes, 1, bytes);
      bytes *= 2;
    }
    benchmark::DoNotOptimize(buffer);
    std::free(buffer);
  }
}
BENCHMARK(realloc_grow)->Arg(1 << 10)->Arg(64 << 10)->Arg(16 << 20);

// A size that moves within its class and its neighbours: mostly nothing to do.
void realloc_same(benchmark::State& state) {
  size_t bytes = static_cast<size_t>(state.range(0));
  void* buffer = std::malloc(bytes);
  size_t step = 0;
  for (auto _ : state) {
    void* moved = std::realloc(buffer, bytes + (step++ & 7));
    if (moved == nullptr) {
      state.SkipWithError("realloc failed");
      break;
    }
    buffer = moved;
    benchmark::DoNotOptimize(buffer);
  }
  std::free(buffer);
}
BENCHMARK(realloc_same)->Arg(100)->Arg(100'000);

}  // namespace
