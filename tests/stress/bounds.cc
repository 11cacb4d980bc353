// How much resident memory there may be for what is live, where blocks go from
// one thread to another for long, where a thread that held most goes idle, and where many threads use many sizes.
#include <malloc.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

struct Block {
  void* address;
  size_t size;
};

Block make_block(Random& random) {
  size_t size = random.log_uniform_size(15);
  void* address = malloc(size);
  CHECK(address != nullptr);
  memset(address, 1, size);
  return {address, size};
}

// First in, first out, with about as many bytes as asked for. What it needs for itself is there from the beginning.
class Queue {
 public:
  explicit Queue(size_t bytes) : room_(bytes), blocks_(bytes / kLeastMean) {}

  void put(Block block) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return live_ < room_; });
    live_ += block.size;
    if (live_ > most_) most_ = live_;
    CHECK_OP(end_ - begin_, <, blocks_.size());
    blocks_[end_++ % blocks_.size()] = block;
    changed_.notify_all();
  }
  // Half of all, at once; none once the queue is closed and empty.
  void take_half(std::vector<Block>& taken) {
    taken.clear();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_closed_ || live_ >= room_; });
    for (size_t middle = begin_ + (end_ - begin_ + 1) / 2; begin_ != middle; ++begin_)
      taken.push_back(blocks_[begin_ % blocks_.size()]);
  }
  void have_freed(const std::vector<Block>& blocks) {
    std::unique_lock lock(mutex_);
    for (const Block& block : blocks) live_ -= block.size;
    changed_.notify_all();
  }
  void close() {
    std::unique_lock lock(mutex_);
    is_closed_ = true;
    changed_.notify_all();
  }
  size_t most() const { return most_; }  // live bytes, freed when have_freed() says so
  size_t most_in_half() const { return blocks_.size() / 2 + 1; }

 private:
  static constexpr size_t kLeastMean = 2 * kKiB;  // of many blocks; of all sizes it is 3

  size_t room_;
  size_t live_ = 0, most_ = 0;
  bool is_closed_ = false;
  std::vector<Block> blocks_;  // a ring
  size_t begin_ = 0, end_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

// What some libraries have besides: the hardened one a quarantine for each thread, those that sample slabs of samples.
size_t bytes_besides(size_t threads) {
  const char* preload = getenv("LD_PRELOAD");
  auto is = [preload](const char* build) { return preload != nullptr && strstr(preload, build) != nullptr; };
  if (is("hardened")) return threads * 3 * kMiB;
  return is("telemetry") || is("debug") ? 4 * kMiB : 0;
}

// Producers allocate, consumers free: 15 times what is live at once goes through.
void producers_and_consumers(size_t pairs, size_t live) {
  constexpr size_t kRounds = 15;
  std::atomic<size_t> highest{0};
  Queue queue(live);
  std::vector<std::vector<Block>> places(pairs);
  for (auto& place : places) place.resize(queue.most_in_half());
  size_t before = resident_bytes_without_files();
  std::vector<std::thread> producers, consumers;
  for (uint64_t p = 0; p < pairs; ++p) {
    producers.emplace_back([&, p] {
      Random random(p);
      for (size_t sent = 0; sent < kRounds * live / pairs;) {
        Block block = make_block(random);
        sent += block.size;
        queue.put(block);
      }
    });
    consumers.emplace_back([&, p] {
      std::vector<Block>& taken = places[p];
      for (;;) {
        queue.take_half(taken);
        if (taken.empty()) return;
        size_t now = resident_bytes_without_files();
        if (now > highest) highest = now;
        for (const Block& block : taken) free(block.address);
        queue.have_freed(taken);
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  queue.close();
  for (std::thread& consumer : consumers) consumer.join();
  size_t used = highest - before;
  printf("%zu pairs: %zu KiB resident for %zu KiB live (%.1f %%)\n", pairs, used / kKiB, queue.most() / kKiB,
         100.0 * static_cast<double>(used) / static_cast<double>(queue.most()));
  CHECK_RESIDENT(used, <=, queue.most() + queue.most() / 5 + bytes_besides(2 * pairs));
}

// Memory comes back as time passes, and that is noticed in calls.
size_t resident_after_decay(size_t enough) {
  double deadline = now_seconds() + 90;
  while (resident_bytes_without_files() > enough && now_seconds() < deadline) {
    sleep_milliseconds(50);
    free(malloc(500 * kKiB));
  }
  return resident_bytes_without_files();
}

// A thread allocates, goes idle for ever, and others free all of it: that serves them, or is given back.
void idle_thread() {
  constexpr size_t kBytes = 200 * kMiB;
  // Of it 128 MiB are held back at first. What an idle thread could keep would not go.
  constexpr size_t kHeldBack = (128 + 32) * kMiB, kEnough = 96 * kMiB, kMostInBins = 2 * kMiB;
  std::vector<Block> blocks(kBytes / kKiB);  // resident from the beginning
  blocks.clear();
  std::mutex mutex;
  std::condition_variable condition;
  enum { kAllocating, kIdle, kEnd } state = kAllocating;
  size_t before = resident_bytes_without_files();
  std::thread idle([&] {
    Random random(5);
    for (size_t bytes = 0; bytes < kBytes;) {
      blocks.push_back(make_block(random));
      bytes += blocks.back().size;
    }
    std::unique_lock lock(mutex);
    state = kIdle;
    condition.notify_all();
    condition.wait(lock, [&] { return state == kEnd; });
  });
  {
    std::unique_lock lock(mutex);
    condition.wait(lock, [&] { return state == kIdle; });
  }
  for (const Block& block : blocks) free(block.address);
  size_t left = resident_bytes_without_files() - before;
  // Blocks of one size more than all that was free: they can only stand where the others stood.
  size_t count = 0;
  for (size_t bytes = 0; bytes < kBytes; bytes += 5000) {
    blocks[count] = {malloc(5000), 5000};
    memset(blocks[count++].address, 1, 5000);
  }
  size_t reused = resident_bytes_without_files() - before;
  for (size_t i = 0; i < count; ++i) free(blocks[i].address);
  size_t in_the_end = resident_after_decay(before + kEnough) - before;
  printf("an idle thread: %zu KiB left of %zu, %zu with as much allocated again, %zu in the end\n", left / kKiB,
         kBytes / kKiB, reused / kKiB, in_the_end / kKiB);
  CHECK_RESIDENT(left, <=, kHeldBack);
  CHECK_RESIDENT(reused, <=, kBytes + kBytes / 5 + 2 * kMostInBins + bytes_besides(2));
  CHECK_RESIDENT(in_the_end, <=, kEnough);
  {
    std::unique_lock lock(mutex);
    state = kEnd;
    condition.notify_all();
  }
  idle.join();
}

// One request of a service: 60 blocks of up to 64 KiB, most of them small, all freed at its end.
void serve(Random& random) {
  std::array<void*, 60> blocks;
  for (void*& block : blocks) {
    size_t size = random.log_uniform_size(static_cast<uint32_t>(random.below(17)));
    block = malloc(size);
    CHECK(block != nullptr);
    memset(block, 1, size);
  }
  for (void* block : blocks) free(block);
}

// Many threads use every class a little: what they keep of each is some times what a request needs. Then they
// serve small requests alone: what they had of the other classes is given back.
void service() {
  constexpr size_t kThreads = 16, kRequests = 200;
  // The first by how many huge pages they have come to: 17 to 56 MiB, and 98 where each kept what it had used.
  constexpr size_t kKept = kThreads * 9 * kMiB / 2, kKeptOfFewClasses = kThreads * kMiB / 2;
  std::atomic<bool> is_over{false};
  std::barrier met(kThreads + 1);
  size_t before = resident_bytes_without_files();
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Random random(t);
      for (size_t i = 0; i < kRequests; ++i) serve(random);
      met.arrive_and_wait();
      met.arrive_and_wait();  // what each keeps is measured
      std::vector<void*> blocks(1000);
      while (!is_over) {
        for (void*& block : blocks) block = malloc(64);
        for (void* block : blocks) free(block);
        sleep_milliseconds(20);
      }
      met.arrive_and_wait();  // none ends before all was measured: it would give back all it has
      met.arrive_and_wait();
    });
  met.arrive_and_wait();
  size_t kept = resident_bytes_without_files() - before;
  met.arrive_and_wait();
  // Each thread looks at what it uses twice, two seconds apart and more where there is other work.
  size_t kept_of_few, enough = kKeptOfFewClasses + bytes_besides(kThreads);
  double deadline = now_seconds() + 60;
  do {
    sleep_milliseconds(500);
    malloc_trim(0);
    kept_of_few = resident_bytes_without_files();
    kept_of_few -= std::min(kept_of_few, before);
  } while (kept_of_few > enough && now_seconds() < deadline);
  is_over = true;
  met.arrive_and_wait();
  met.arrive_and_wait();
  for (std::thread& thread : threads) thread.join();
  printf("%zu threads that serve: %zu KiB kept, %zu of few classes\n", kThreads, kept / kKiB, kept_of_few / kKiB);
  CHECK_RESIDENT(kept, <=, kKept + bytes_besides(kThreads));
  CHECK_RESIDENT(kept_of_few, <=, enough);
}

}  // namespace
}  // namespace stress

// bounds [LIVE_MIB]: with a number, as much in producers and consumers, and nothing else.
int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  size_t live = (argc > 1 ? strtoull(argv[1], nullptr, 10) : 200) * kMiB;
  run_part([=] { producers_and_consumers(1, live); });
  run_part([=] { producers_and_consumers(3, live); });
  if (argc == 1) {
    run_part(idle_thread);
    run_part(service);
  }
  return passed("bounds");
}
