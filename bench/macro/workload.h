// What every macro workload shares: options, a fixed random generator, blocks
// that are touched and checked, and the one line of JSON at the end.
//
// A workload does a fixed amount of work for its arguments: the same blocks in
// the same order per thread under every allocator. The checksum proves it, and
// a block whose content changed between allocation and free ends the run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

// SplitMix64 (Steele, Lea, Flood 2014): short, no state to warm up, and far
// cheaper than a malloc, so that it does not hide what is measured.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // What a block is filled with.
  uint32_t content() { return static_cast<uint32_t>(next()); }

  // In [0, bound); bound must be below 2^32. The bias is below 2^-32 * bound.
  uint32_t below(uint64_t bound) { return static_cast<uint32_t>(((next() >> 32) * bound) >> 32); }

  // In [low, high].
  uint32_t between(uint64_t low, uint64_t high) { return static_cast<uint32_t>(low + below(high - low + 1)); }

  // True once in `period` on average.
  bool once_in(uint64_t period) { return below(period) == 0; }

  // Log-uniform in [low, 2 * high): each power of two is equally likely, and
  // each size within it. Both bounds are powers of two.
  uint32_t log_uniform(uint32_t low, uint32_t high) {
    uint32_t octaves = static_cast<uint32_t>(__builtin_ctz(high) - __builtin_ctz(low)) + 1;
    uint32_t base = low << below(octaves);
    return base + below(base);
  }

  // Sizes as servers show them: mostly small, a tail of buffers up to 16 KiB.
  uint32_t server_size() {
    uint32_t kind = below(100);
    if (kind < 70) return between(16, 128);
    if (kind < 95) return between(129, 1024);
    return between(1025, 16'384);
  }

 private:
  uint64_t state_;
};

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Says that a block changed while it was allocated, and ends by a signal: as a crash, it is the allocator's doing.
[[noreturn]] void abort_as_changed(uint32_t bytes, const void* block);

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kSmallestBlock = 8;

// The first word of every block.
struct Stamp {
  uint32_t bytes;
  uint32_t content;
};

// Writes the first word, one byte a page of the first `touched` bytes and the
// last byte, as a program that uses its memory would. `bytes` is at least 8.
inline void* fill_block(void* memory, uint32_t bytes, uint32_t content, uint32_t touched) {
  auto* block = static_cast<unsigned char*>(memory);
  if (block == nullptr) fail("an allocation of %u bytes failed", bytes);
  Stamp stamp{bytes, content};
  std::memcpy(block, &stamp, sizeof stamp);
  for (size_t offset = kPageBytes; offset + 1 < touched; offset += kPageBytes)
    block[offset] = static_cast<unsigned char>(content);
  if (bytes > sizeof stamp) block[bytes - 1] = static_cast<unsigned char>(content);
  return block;
}

// Returns the block's first word; ends the program if its content changed.
inline Stamp check_block(const void* memory) {
  auto* block = static_cast<const unsigned char*>(memory);
  Stamp stamp;
  std::memcpy(&stamp, block, sizeof stamp);
  if (stamp.bytes > sizeof stamp && block[stamp.bytes - 1] != static_cast<unsigned char>(stamp.content))
    abort_as_changed(stamp.bytes, memory);
  return stamp;
}

inline void* allocate_block(uint32_t bytes, uint32_t content) {
  return fill_block(std::malloc(bytes), bytes, content, bytes);
}

// Draws the content before the size. Sizes of the caller's own are drawn in a
// statement of their own, too: compilers differ in the order of arguments.
inline void* allocate_random_block(Random& random, uint64_t smallest, uint64_t largest) {
  uint32_t content = random.content();
  return allocate_block(random.between(smallest, largest), content);
}

// Checks and frees a block; returns its content for the checksum.
inline uint32_t free_block(void* memory) {
  Stamp stamp = check_block(memory);
  std::free(memory);
  return stamp.content;
}

// What was done so far.
struct Result {
  uint64_t operations;  // mallocs, reallocs and frees together
  uint64_t checksum;

  // Frees what the slot holds, if anything, and puts a new block there.
  void replace(void*& slot, uint32_t bytes, uint32_t content) {
    if (slot != nullptr) free(slot);
    slot = allocate_block(bytes, content);
    ++operations;
  }

  void free(void* block) {
    checksum += free_block(block);
    ++operations;
  }

  void free_all(std::vector<void*>& slots) {
    for (void* slot : slots)
      if (slot != nullptr) free(slot);
  }

  Result& operator+=(const Result& other) {
    operations += other.operations;
    checksum += other.checksum;
    return *this;
  }
};

// Options of the form --name=NUMBER, all with defaults. An unknown one is an
// error, so that a table of arguments cannot be wrong silently.
class Options {
 public:
  Options(int argc, char** argv);

  uint64_t number(std::string_view name, uint64_t default_value);
  std::string text(std::string_view name, std::string_view default_value);
  // Ends the program if an option was given that nobody asked for.
  void finish() const;

 private:
  const std::string* find(std::string_view name);

  struct Given {
    std::string name, value;
    bool used;
  };
  std::vector<Given> given_;
};

// Ends the program unless blocks of these sizes can be made.
void check_sizes(uint64_t smallest, uint64_t largest);

// Takes a look at the resident memory of this process while the workload rests.
// The line of JSON tells the mean of all looks as `resting_rss_bytes`. One
// thread only.
void look_at_resident_memory();

// Path of the object that provides malloc in this process, or "?".
const char* malloc_provider();

// Runs the workload, prints its line of JSON on stdout and returns the exit status.
int run(const char* name, const std::function<Result()>& workload);

// Runs body(0) .. body(threads - 1), each in a thread of its own, and adds up
// what they return.
Result run_threads(uint64_t threads, const std::function<Result(uint64_t)>& body);

}  // namespace bench
