// Larson (Larson and Krishnan, ISMM 1998): a server whose threads replace
// random chunks of an array and hand the array to a new thread, so that most
// chunks are freed by another thread than the one that allocated them.
//
// Two changes to the original: the number of operations is fixed, not the time,
// and each chain of threads works on several arrays in turn. The chunks of one
// array fit the caches while all arrays together make a heap worth weighing.
//
// --free=sized allocates with operator new and frees with the operator delete
// that is told the size, as C++ containers do.
#include <new>
#include <thread>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t threads, arrays, chunks, rounds, replacements, smallest, largest, seed;
};

using Array = std::vector<void*>;

struct Plain {
  static void* allocate(uint32_t bytes, uint32_t content) { return bench::allocate_block(bytes, content); }
  static uint32_t free(void* chunk) { return bench::free_block(chunk); }
};

struct Sized {
  static void* allocate(uint32_t bytes, uint32_t content) {
    return bench::fill_block(::operator new(bytes), bytes, content, bytes);
  }
  static uint32_t free(void* chunk) {
    bench::Stamp stamp = bench::check_block(chunk);
    ::operator delete (chunk, size_t{stamp.bytes});
    return stamp.content;
  }
};

template <typename Interface>
bench::Result replace_chunks(Array& array, const Parameters& parameters, bench::Random random) {
  bench::Result result{};
  for (uint64_t i = 0; i < parameters.replacements; ++i) {
    void*& chunk = array[random.below(array.size())];
    result.checksum += Interface::free(chunk);
    uint64_t draw = random.next();
    uint32_t bytes =
        static_cast<uint32_t>(parameters.smallest + (draw >> 32) % (parameters.largest - parameters.smallest + 1));
    chunk = Interface::allocate(bytes, static_cast<uint32_t>(draw));
  }
  result.operations = 2 * parameters.replacements;
  return result;
}

// One chain of threads: each round a new thread takes over the next array.
template <typename Interface>
bench::Result run_chain(const Parameters& parameters, uint64_t chain) {
  bench::Random random(parameters.seed + chain);
  bench::Result result{};
  std::vector<Array> arrays(parameters.arrays, Array(parameters.chunks));
  for (Array& array : arrays) {
    for (void*& chunk : array) {
      uint32_t content = random.content();
      chunk = Interface::allocate(random.between(parameters.smallest, parameters.largest), content);
    }
  }
  for (uint64_t round = 0; round < parameters.rounds; ++round) {
    bench::Result part{};
    std::thread worker([&, seed = random.next()] {
      part = replace_chunks<Interface>(arrays[round % arrays.size()], parameters, bench::Random(seed));
    });
    worker.join();
    result += part;
  }
  for (Array& array : arrays)
    for (void* chunk : array) result.checksum += Interface::free(chunk);
  result.operations += 2 * parameters.arrays * parameters.chunks;
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .threads = options.number("threads", 2),
      .arrays = options.number("arrays", 64),
      .chunks = options.number("chunks", 2048),
      .rounds = options.number("rounds", 1000),
      .replacements = options.number("replacements", 20'000),
      .smallest = options.number("smallest", 8),
      .largest = options.number("largest", 128),
      .seed = options.number("seed", 1),
  };
  std::string how = options.text("free", "plain");
  options.finish();
  bench::check_sizes(parameters.smallest, parameters.largest);
  if (how != "plain" && how != "sized") bench::fail("--free=%s: neither plain nor sized", how.c_str());
  return bench::run("larson", [&] {
    return bench::run_threads(parameters.threads, [&](uint64_t chain) {
      return how == "sized" ? run_chain<Sized>(parameters, chain) : run_chain<Plain>(parameters, chain);
    });
  });
}
