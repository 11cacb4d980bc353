// A model of what the allocator must do: every live block with its content.
// Random operations are run on both, and whatever differs fails the test.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "allocator/metrics/catalogue.h"
#include "tests/unit/support/random.h"

namespace hakmem::test {

// Live objects by size class, large and huge ones too.
using LiveCounts = std::array<uint64_t, metrics::kSizeClassCount>;

struct ShadowBlock {
  unsigned char* address;
  size_t bytes;
  uint64_t tag;  // of the content
  uint32_t size_class;
};

// The first call of a process comes before its second thread exists, since
// pthread_create itself allocates. Tests, whose malloc is another, call this first.
// From then on no time passes for the heap by itself.
void start_process();

// As if one did. A thread that has a cache.
void let_a_second_pass();

// The class of the slab that a live block stands in.
uint32_t class_of_block(const void* address);

// The content of a block: every byte follows from its offset and the tag, so
// that any prefix can be checked after a realloc. Of large blocks some bytes in each KiB.
void fill(unsigned char* address, size_t bytes, uint64_t tag);
// The first `bytes` of a block that was filled with `filled` bytes.
bool has_content(const unsigned char* address, size_t bytes, size_t filled, uint64_t tag);
bool is_zero(const void* address, size_t bytes);

class ShadowHeap {
 public:
  struct Limits {
    uint32_t log2_max_bytes = 22;
    size_t max_blocks = 400;
    size_t max_bytes = size_t{48} << 20;
    uint32_t log2_max_alignment = 19;
  };

  explicit ShadowHeap(uint64_t seed) : ShadowHeap(seed, Limits()) {}
  ShadowHeap(uint64_t seed, Limits limits) : random_(seed), limits_(limits) {}
  // Blocks still live are left to the allocator: free_all() is not implied.

  // One random operation of the malloc family.
  void step();
  void allocate();
  void reallocate();
  void free();
  void free_all();

  bool empty() const { return blocks_.empty(); }
  size_t size() const { return blocks_.size(); }
  size_t bytes() const { return bytes_; }
  void count_live(LiveCounts& counts) const;

  // Hands a random live block over to another model; there must be one.
  ShadowBlock give();
  void take(const ShadowBlock& block);

  Random& random() { return random_; }

 private:
  void add(void* address, size_t bytes, size_t alignment);
  ShadowBlock remove(size_t index);

  Random random_;
  Limits limits_;
  std::vector<ShadowBlock> blocks_;
  std::map<const unsigned char*, const unsigned char*> ranges_;  // start and end of each block
  size_t bytes_ = 0;
};

// Blocks on their way from one thread's model to another's.
class Mailbox {
 public:
  void put(const ShadowBlock& block) {
    std::lock_guard guard(mutex_);
    blocks_.push_back(block);
  }
  void empty_into(ShadowHeap& shadow) {
    std::vector<ShadowBlock> blocks;
    {
      std::lock_guard guard(mutex_);
      blocks.swap(blocks_);
    }
    for (const ShadowBlock& block : blocks) shadow.take(block);
  }

 private:
  std::mutex mutex_;
  std::vector<ShadowBlock> blocks_;
};

}  // namespace hakmem::test
