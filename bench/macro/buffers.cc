// Growing buffers: strings, vectors and files being read, which grow through
// realloc while others grow beside them. Some double, some grow by half, some by
// a fixed step; a complete one is cut to its length, kept a while, and replaced.
#include <algorithm>

#include "bench/macro/workload.h"

namespace {

struct Parameters {
  uint64_t buffers, operations, seed;
};

constexpr uint32_t kShortest = 32;
constexpr uint32_t kLongest = 1 << 20;

// Marks stand this far apart in a buffer, and tell whether realloc kept them.
constexpr uint32_t kMarkBytes = 256;

class Buffer {
 public:
  // Adds some bytes; returns false if the buffer is complete already.
  bool append(bench::Random& random, bench::Result& result) {
    if (length_ == final_length_) return false;
    // A sixteenth of the whole at most, so that every buffer takes some steps.
    uint32_t bytes = std::min(random.between(1, final_length_ / 16 + 1), final_length_ - length_);
    if (length_ + bytes > capacity_) resize(std::max(grown(), length_ + bytes), result);
    for (uint32_t offset = next_mark(); offset < length_ + bytes; offset += kMarkBytes) memory_[offset] = mark(offset);
    length_ += bytes;
    if (length_ == final_length_ && capacity_ > length_) resize(length_, result);
    return true;
  }

  void start(uint32_t final_length, bench::Random& random) {
    final_length_ = final_length;
    growth_ = static_cast<Growth>(random.below(3));
    content_ = random.content();
  }

  // Checks the marks and frees the memory.
  void finish(bench::Result& result) {
    for (uint32_t offset = 0; offset < length_; offset += kMarkBytes)
      if (memory_[offset] != mark(offset)) bench::fail("a buffer of %u bytes changed at %u", length_, offset);
    if (memory_ == nullptr) return;
    std::free(memory_);
    ++result.operations;
    result.checksum += content_ ^ length_;
    *this = Buffer();
  }

 private:
  enum class Growth { kDoubling, kByHalf, kByStep };

  uint32_t grown() const {
    switch (growth_) {
      case Growth::kDoubling: return std::max(16u, 2 * capacity_);
      case Growth::kByHalf: return std::max(16u, capacity_ + capacity_ / 2);
      case Growth::kByStep: break;
    }
    return capacity_ + (final_length_ < 4096 ? 64 : 4096);
  }

  void resize(uint32_t capacity, bench::Result& result) {
    auto* memory = static_cast<unsigned char*>(std::realloc(memory_, capacity));
    if (memory == nullptr) bench::fail("realloc to %u bytes failed", capacity);
    memory_ = memory;
    capacity_ = capacity;
    ++result.operations;
  }

  uint32_t next_mark() const { return (length_ + kMarkBytes - 1) / kMarkBytes * kMarkBytes; }
  unsigned char mark(uint32_t offset) const { return static_cast<unsigned char>(content_ + offset / kMarkBytes); }

  unsigned char* memory_ = nullptr;
  uint32_t capacity_ = 0, length_ = 0, final_length_ = 0, content_ = 0;
  Growth growth_ = Growth::kDoubling;
};

bench::Result run_buffers(const Parameters& parameters) {
  bench::Random random(parameters.seed);
  bench::Result result{};
  std::vector<Buffer> buffers(parameters.buffers);
  for (uint64_t i = 0; i < parameters.operations; ++i) {
    Buffer& buffer = buffers[random.below(buffers.size())];
    if (buffer.append(random, result)) continue;
    buffer.finish(result);
    buffer.start(random.log_uniform(kShortest, kLongest / 2), random);
  }
  for (Buffer& buffer : buffers) buffer.finish(result);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .buffers = options.number("buffers", 1'000),
      .operations = options.number("operations", 300'000),
      .seed = options.number("seed", 1),
  };
  options.finish();
  return bench::run("buffers", [&] { return run_buffers(parameters); });
}
