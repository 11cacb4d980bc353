// Random sequences of all calls against a shadow model: every block has the
// alignment and usable size it was asked for, overlaps no other block, and holds
// what was written. With several threads, blocks wander through queues and are
// resized and freed by threads that did not allocate them.
//
// The model lives in mapped memory of its own, out of reach of the allocator.
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

#include <new>

#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr uint32_t kMaxSizeLog2 = 22;
constexpr size_t kPage = 4096;

struct Block {
  void* address;
  size_t size;
  uint64_t tag;
  uintptr_t end() const { return reinterpret_cast<uintptr_t>(address) + size; }
  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(address); }
};

// Blocks handed from thread to thread; a full queue refuses, an empty one gives none.
class Queue {
 public:
  bool give(const Block& block) {
    pthread_mutex_lock(&mutex_);
    bool room = count_ < kCapacity;
    if (room) blocks_[count_++] = block;
    pthread_mutex_unlock(&mutex_);
    return room;
  }
  bool take(Random& random, Block& block) {
    pthread_mutex_lock(&mutex_);
    bool any = count_ > 0;
    if (any) {
      size_t index = random.below(count_);
      block = blocks_[index];
      blocks_[index] = blocks_[--count_];
    }
    pthread_mutex_unlock(&mutex_);
    return any;
  }

 private:
  static constexpr size_t kCapacity = 512;
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  Block blocks_[kCapacity];
  size_t count_ = 0;
};

class Model {
 public:
  Model(uint64_t seed, Queue* queues, size_t queue_count, size_t self)
      : random_(seed * 1000003 + self), tag_(seed << 40 | self << 36), queues_(queues), queue_count_(queue_count) {
    self_ = self;
  }

  void run(size_t steps) {
    for (size_t step = 0; step < steps; ++step) {
      size_t slot = random_.below(kSlots);
      Block& block = blocks_[slot];
      if (block.address == nullptr)
        allocate(block);
      else if (random_.below(4) == 0)
        reallocate(block);
      else if (queue_count_ > 1 && random_.below(3) == 0)
        hand_over(block);
      else
        release(block);
      if (random_.below(64) == 0) receive();
      if (random_.below(20000) == 0) malloc_trim(0);
      if (random_.below(20000) == 0) CHECK_OP(mallinfo2().uordblks + mallinfo2().hblkhd, >=, size_t{1});
    }
  }

  void finish() {
    for (Block& block : blocks_)
      if (block.address != nullptr) release(block);
    Block block;
    while (queues_ != nullptr && queues_[self_].take(random_, block)) release(block);
  }

 private:
  static constexpr size_t kSlots = 1500;

  size_t random_size() {
    // Small ones more often, or the few large ones would take all the time.
    return random_.log_uniform_size(random_.below(8) == 0 ? kMaxSizeLog2 : 13);
  }

  void allocate(Block& block) {
    size_t size = random_size();
    size_t alignment = 1;
    size_t usable_at_least = size;
    void* address = nullptr;
    bool zero = false;
    switch (random_.below(14)) {
      case 0:
      case 1: address = calloc(1, size), zero = true; break;
      case 2: address = calloc((size + 6) / 7, 7), zero = true; break;
      case 3: address = reallocarray(nullptr, (size + 2) / 3, 3); break;
      case 4: address = realloc(nullptr, size); break;
      case 5: address = memalign(alignment = random_alignment(), size); break;
      case 6: address = aligned_alloc(alignment = random_alignment(), size); break;
      case 7:
        alignment = random_alignment();
        if (alignment < sizeof(void*)) alignment = sizeof(void*);
        CHECK(posix_memalign(&address, alignment, size) == 0);
        break;
      case 8: address = valloc(size), alignment = kPage; break;
      case 9:
        address = pvalloc(size), alignment = kPage;
        usable_at_least = (size + kPage - 1) / kPage * kPage;
        break;
      default: address = malloc(size); break;
    }
    CHECK(address != nullptr);
    CHECK(is_aligned(address, alignment));
    CHECK(is_aligned(address, size < 16 ? 8 : 16));
    CHECK_OP(malloc_usable_size(address), >=, usable_at_least);
    if (zero) check_zero(address, size < 64 * kKiB ? size : 64 * kKiB);
    place(block, address, size);
  }

  size_t random_alignment() { return size_t{1} << random_.below(random_.below(16) == 0 ? 21 : 13); }

  void place(Block& block, void* address, size_t size) {
    // One in eight uses all that malloc_usable_size promises.
    if (random_.below(8) == 0) size = malloc_usable_size(address);
    Block placed{address, size, ++tag_};
    for (const Block& other : blocks_) {
      if (other.address == nullptr || &other == &block) continue;
      if (placed.begin() < other.end() && other.begin() < placed.end()) {
        dprintf(2, "block %p of %zu bytes overlaps block %p of %zu bytes\n", address, size, other.address, other.size);
        abort();
      }
    }
    fill_content(address, size, placed.tag);
    block = placed;
  }

  void reallocate(Block& block) {
    check_content(block.address, block.size, block.tag);
    // To a random size, or by a little either way.
    size_t size = random_size();
    if (random_.below(2) == 0) size = block.size / 8 * (6 + random_.below(6)) + 1;
    bool product = random_.below(4) == 0;
    void* moved = product ? reallocarray(block.address, 1, size) : realloc(block.address, size);
    CHECK(moved != nullptr);
    check_content(moved, size, block.tag, block.size);
    block.address = nullptr;
    place(block, moved, size);
  }

  void release(Block& block) {
    check_content(block.address, block.size, block.tag);
    CHECK_OP(malloc_usable_size(block.address), >=, block.size);
    errno = 42;
    free(block.address);
    CHECK_OP(errno, ==, 42);
    block.address = nullptr;
  }

  void hand_over(Block& block) {
    if (queues_[random_.below(queue_count_)].give(block)) block.address = nullptr;
  }

  void receive() {
    if (queues_ == nullptr) return;
    Block block;
    for (int i = 0; i < 24 && queues_[self_].take(random_, block); ++i) {
      if (random_.below(3) == 0) reallocate(block);
      release(block);
    }
  }

  Random random_;
  uint64_t tag_;
  Queue* queues_;
  size_t queue_count_;
  size_t self_;
  Block blocks_[kSlots] = {};
};

void* map_pages(size_t bytes) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED);
  return pages;
}

struct Worker {
  pthread_t thread;
  uint64_t seed;
  Queue* queues;
  size_t queue_count;
  size_t self;
  size_t steps;
};

void* run_worker(void* argument) {
  auto* worker = static_cast<Worker*>(argument);
  void* memory = map_pages(sizeof(Model));
  auto* model = new (memory) Model(worker->seed, worker->queues, worker->queue_count, worker->self);
  model->run(worker->steps);
  model->finish();
  munmap(memory, sizeof(Model));
  return nullptr;
}

void run_threads(uint64_t seed, size_t threads, size_t steps) {
  constexpr size_t kMaxThreads = 16;
  CHECK(threads <= kMaxThreads);
  auto* queues = static_cast<Queue*>(map_pages(kMaxThreads * sizeof(Queue)));
  for (size_t i = 0; i < threads; ++i) new (&queues[i]) Queue;
  Worker workers[kMaxThreads];
  for (size_t i = 0; i < threads; ++i) {
    workers[i] = {{}, seed, queues, threads, i, steps};
    CHECK(pthread_create(&workers[i].thread, nullptr, run_worker, &workers[i]) == 0);
  }
  for (size_t i = 0; i < threads; ++i) CHECK(pthread_join(workers[i].thread, nullptr) == 0);
  // What arrived after its receiver had ended.
  Random random(seed);
  Block block;
  for (size_t i = 0; i < threads; ++i) {
    while (queues[i].take(random, block)) {
      check_content(block.address, block.size, block.tag);
      free(block.address);
    }
  }
  munmap(queues, kMaxThreads * sizeof(Queue));
}

}  // namespace
}  // namespace stress

// shadow_model THREADS STEPS SEED...
int main(int argc, char** argv) {
  stress::require_hakmem();
  CHECK(argc >= 4);
  size_t threads = strtoul(argv[1], nullptr, 10);
  size_t steps = strtoul(argv[2], nullptr, 10);
  for (int i = 3; i < argc; ++i) {
    uint64_t seed = strtoull(argv[i], nullptr, 10);
    stress::run_threads(seed, threads, steps);
    printf("seed %llu done\n", static_cast<unsigned long long>(seed));
    fflush(stdout);
  }
  return stress::passed("shadow_model");
}
