// Leak and release: the program grows to a peak, releases most blocks in random
// order but keeps some everywhere in the heap, has little to do for a while, and
// grows again with blocks of other sizes. What stays resident while it rests,
// beyond the blocks that are left, is the fragmentation that users complain of;
// what the next phase cannot use of it shows in the peak.
#include <array>
#include <chrono>
#include <thread>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t phases, peak_mib, kept_percent, rest_ms, seed;
};

struct SizeBand {
  uint32_t smallest, largest;
};

constexpr std::array<SizeBand, 4> kBands{{{16, 128}, {512, 4096}, {64, 512}, {4096, 65'536}}};

class Heap {
 public:
  Heap(uint64_t seed, uint64_t peak) : random_(seed) {
    // Once for all, so that growing it does not show in the peak.
    blocks_.reserve(peak / kBands[0].smallest + 1);
  }

  void grow(const SizeBand& band, uint64_t live_bytes) {
    while (live_bytes_ < live_bytes) {
      blocks_.push_back(bench::allocate_random_block(random_, band.smallest, band.largest));
      live_bytes_ += bench::check_block(blocks_.back()).bytes;
      ++result_.operations;
    }
  }

  void release(uint64_t live_bytes) {
    while (live_bytes_ > live_bytes) {
      std::swap(blocks_[random_.below(blocks_.size())], blocks_.back());
      live_bytes_ -= bench::check_block(blocks_.back()).bytes;
      result_.free(blocks_.back());
      blocks_.pop_back();
    }
  }

  // Little to do, a few short-lived blocks each millisecond: an allocator that
  // gives memory back when it is called has its chance, too.
  void rest(uint64_t milliseconds) {
    std::vector<void*> request(16, nullptr);
    for (uint64_t i = 0; i < milliseconds; ++i) {
      for (void*& block : request) {
        uint32_t content = random_.content();
        result_.replace(block, random_.server_size(), content);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    result_.free_all(request);
    bench::look_at_resident_memory();
  }

  const bench::Result& result() const { return result_; }

 private:
  bench::Random random_;
  bench::Result result_{};
  std::vector<void*> blocks_;
  uint64_t live_bytes_ = 0;
};

bench::Result run_phases(const Parameters& parameters) {
  uint64_t peak = parameters.peak_mib << 20;
  Heap heap(parameters.seed, peak);
  for (uint64_t phase = 0; phase < parameters.phases; ++phase) {
    heap.grow(kBands[phase % kBands.size()], peak);
    heap.release(peak / 100 * parameters.kept_percent);
    heap.rest(parameters.rest_ms);
  }
  heap.release(0);
  return heap.result();
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .phases = options.number("phases", 4),
      .peak_mib = options.number("peak-mib", 48),
      .kept_percent = options.number("kept-percent", 15),
      .rest_ms = options.number("rest-ms", 100),
      .seed = options.number("seed", 1),
  };
  options.finish();
  if (parameters.kept_percent >= 100) bench::fail("--kept-percent must be below 100");
  return bench::run("phases", [&] { return run_phases(parameters); });
}
