// Operations on the allocator by two threads in turn, against a model of all
// live blocks: content, alignment, usable size, no overlap, and the allocator's
// own invariants. Every fourth input is a call; its bytes say which and by whom.
//
// Both threads run one call at a time, so that an input does the same each time
// but for the addresses; what they do at once is for the stress tests and for
// tests/model.
#include <errno.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/api/statistics.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/fuzz/input.h"

namespace hakmem::fuzz {
namespace {

constexpr size_t kMaxBlocks = 4096;
constexpr size_t kMaxBytes = 16 * kMiB;
constexpr uint32_t kCallsToCheck = 64;
constexpr int kErrno = 4321;  // success and every free keep errno

// A second thread that lives as long as the process and runs what it is given.
class Worker {
 public:
  void run(const std::function<void()>& work) {
    std::unique_lock guard(mutex_);
    if (!is_started_) {
      std::thread([this] { serve(); }).detach();
      is_started_ = true;
    }
    work_ = &work;
    changed_.notify_all();
    changed_.wait(guard, [this] { return work_ == nullptr; });
  }

 private:
  void serve() {
    std::unique_lock guard(mutex_);
    for (;;) {
      changed_.wait(guard, [this] { return work_ != nullptr; });
      (*work_)();
      work_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  bool is_started_ = false;
};

struct LiveBlock {
  unsigned char* address;
  size_t bytes;
  unsigned char tag;
};

unsigned char byte_at(size_t offset, unsigned char tag) {
  return static_cast<unsigned char>(tag + offset * 131 + (offset >> 8));
}

// The ends, and a few bytes of up to eight pages between: pages that are not touched cost nothing.
template <class Visit>
void visit_parts(size_t bytes, Visit visit) {
  for (size_t i = 0; i < bytes && i < 128; ++i) visit(i);
  size_t step = std::max(bytes / 8 / kPageBytes * kPageBytes, kPageBytes);
  for (size_t page = kPageBytes; page < bytes; page += step)
    for (size_t i = page; i < page + 8 && i < bytes; ++i) visit(i);
  for (size_t i = bytes < 16 ? 0 : bytes - 16; i < bytes; ++i) visit(i);
}

class Model {
 public:
  void add(void* address, size_t bytes, size_t alignment, unsigned char tag, bool zeroed = false) {
    HAKMEM_FUZZ_CHECK(address != nullptr);
    HAKMEM_FUZZ_CHECK(reinterpret_cast<uintptr_t>(address) % alignment == 0);
    size_t usable = usable_bytes(address);
    HAKMEM_FUZZ_CHECK(usable >= bytes);
    auto* start = static_cast<unsigned char*>(address);
    auto above = ranges_.lower_bound(start);
    HAKMEM_FUZZ_CHECK(above == ranges_.end() || start + usable <= above->first);
    HAKMEM_FUZZ_CHECK(above == ranges_.begin() || std::prev(above)->second <= start);
    if (zeroed) visit_parts(bytes, [&](size_t i) { HAKMEM_FUZZ_CHECK(start[i] == 0); });
    visit_parts(bytes, [&](size_t i) { start[i] = byte_at(i, tag); });
    if (usable > bytes) start[usable - 1] = tag;  // all that is usable belongs to the caller
    ranges_[start] = start + usable;
    blocks_.push_back({start, bytes, tag});
    bytes_ += bytes;
  }

  // Takes block `index` out, whose content must be what was written; there must be one.
  LiveBlock remove(size_t index) {
    index %= blocks_.size();
    LiveBlock block = blocks_[index];
    check_content(block, block.bytes);
    blocks_[index] = blocks_.back();
    blocks_.pop_back();
    ranges_.erase(block.address);
    bytes_ -= block.bytes;
    return block;
  }

  static void check_content(const LiveBlock& block, size_t bytes) {
    visit_parts(block.bytes, [&](size_t i) {
      if (i < bytes) HAKMEM_FUZZ_CHECK(block.address[i] == byte_at(i, block.tag));
    });
  }

  bool empty() const { return blocks_.empty(); }
  bool is_full() const { return blocks_.size() >= kMaxBlocks || bytes_ >= kMaxBytes; }

 private:
  std::vector<LiveBlock> blocks_;
  std::map<unsigned char*, unsigned char*> ranges_;  // start and end of each block
  size_t bytes_ = 0;
};

// One call: four bytes of input.
struct Call {
  uint8_t what;  // which call, by the lower bits; the highest says who
  uint8_t which;
  uint8_t exponent;
  uint8_t mantissa;

  bool by_worker() const { return what >= 128; }
  // 0 to 4 MiB; each doubling equally often.
  size_t bytes() const {
    uint32_t log2 = exponent % 22;
    return (size_t{1} << log2) + ((size_t{1} << log2) * mantissa >> 8) - (log2 == 0 ? mantissa % 2 : 0);
  }
};

void allocate_into(Model& model, const Call& call) {
  size_t bytes = call.bytes();
  if (call.exponent >= 128) bytes %= 2048;
  auto tag = static_cast<unsigned char>(call.which ^ call.mantissa);
  if (model.is_full()) return;
  switch (call.what % 8) {
    case 0: {
      size_t count = 1 + call.which % 8;
      return model.add(allocate_zeroed(count, bytes / count), bytes / count * count, kBlockAlignment, tag, true);
    }
    case 1: {
      size_t alignment = size_t{1} << call.which % 22;
      void* address = allocate_aligned(alignment, bytes);
      return model.add(address, bytes, std::max(alignment, kBlockAlignment), tag);
    }
    case 2:  // as many as one bin takes, so that bins run full and empty
      bytes %= 512;
      for (uint32_t i = 0; i < 64 && !model.is_full(); ++i) model.add(allocate(bytes), bytes, kBlockAlignment, tag);
      return;
    default: model.add(allocate(bytes), bytes, kBlockAlignment, tag);
  }
}

void reallocate_in(Model& model, const Call& call) {
  LiveBlock block = model.remove(call.which);
  size_t bytes = call.what % 2 == 0 ? call.bytes() : block.bytes + block.bytes * call.mantissa / 512;
  if (model.is_full() && bytes > block.bytes) bytes = block.bytes;
  void* address = reallocate(block.address, bytes);
  if (bytes == 0) {
    HAKMEM_FUZZ_CHECK(address == nullptr);
    return;
  }
  HAKMEM_FUZZ_CHECK(address != nullptr);
  Model::check_content({static_cast<unsigned char*>(address), block.bytes, block.tag}, bytes);
  model.add(address, bytes, kBlockAlignment, static_cast<unsigned char>(block.tag + 1));
}

void free_in(Model& model, uint32_t which, uint32_t count) {
  for (uint32_t i = 0; i < count && !model.empty(); ++i) free(model.remove(which + i).address);
}

void make(Model& model, const Call& call) {
  errno = kErrno;
  switch (call.what % 128 / 8) {
    case 0:
      if (!model.empty()) reallocate_in(model, call);
      break;
    case 1: call.which % 8 == 0 ? static_cast<void>(purge_all()) : free(nullptr); break;
    case 2: flush_thread_cache(); break;
    case 3: free_in(model, call.which, call.mantissa); break;
    case 4:
    case 5:
    case 6:
    case 7: free_in(model, call.which, 1); break;
    default: allocate_into(model, call);
  }
  HAKMEM_FUZZ_CHECK(errno == kErrno);
}

// What a thread draws its samples by, so that an input draws the same each time.
void seed_thread(uint8_t seed) {
  free(allocate(1));
  thread_state.cache->random = RandomGenerator(seed);
}

void run(Input input) {
  static Worker& worker = *new Worker;
  auto seed = input.take<uint8_t>();
  // From a sample every 2 KiB to none in most inputs.
  metrics::sample_interval_bytes.store(uint64_t{2048} << seed % 16, std::memory_order_relaxed);
  seed_thread(seed);
  worker.run([&] { seed_thread(seed); });
  Model model;
  for (uint32_t calls = 1; !input.empty(); ++calls) {
    auto call = input.take<Call>();
    call.by_worker() ? worker.run([&] { make(model, call); }) : make(model, call);
    if (calls % kCallsToCheck == 0) HAKMEM_FUZZ_CHECK(heap_is_consistent());
  }
  while (!model.empty()) free(model.remove(0).address);
  HAKMEM_FUZZ_CHECK(heap_is_consistent());
  // With both caches empty, nothing but samples' slabs may be left.
  worker.run(flush_thread_cache);
  flush_thread_cache();
  HAKMEM_FUZZ_CHECK(heap_is_consistent());
  HAKMEM_FUZZ_CHECK(heap_totals().used_bytes == 0);
}

}  // namespace
}  // namespace hakmem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hakmem::fuzz::run({data, size});
  return 0;
}
