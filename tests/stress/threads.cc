// Threads that come and go, live together, hand memory to each other and end
// late: resident memory stays bounded by what is live, and content stays right.
#include <limits.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

// One short life: allocates, frees most, leaves one block to whoever comes next.
std::atomic<void*> left_behind{nullptr};
void short_life(uint64_t seed) {
  Random random(seed);
  void* blocks[100];
  size_t sizes[100];
  for (size_t i = 0; i < 100; ++i) {
    sizes[i] = random.log_uniform_size(12);
    blocks[i] = malloc(sizes[i]);
    CHECK(blocks[i] != nullptr);
    fill_content(blocks[i], sizes[i], seed + i);
  }
  for (size_t i = 0; i < 100; ++i) {
    check_content(blocks[i], sizes[i], seed + i);
    void* block = blocks[i];
    free(i == 50 ? left_behind.exchange(block) : block);
  }
}

void short_threads(size_t count) {
  constexpr size_t kAtOnce = 8, kSettled = 2000;
  size_t settled = 0;
  for (size_t started = 0; started < count; started += kAtOnce) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kAtOnce; ++i) threads.emplace_back(short_life, (started + i) << 20);
    for (std::thread& thread : threads) thread.join();
    // How many live at once is up to the scheduler: the most of the first.
    if (started <= kSettled) settled = std::max(settled, resident_bytes());
  }
  free(left_behind.exchange(nullptr));
  printf("%zu threads: %zu KiB resident at most in the first %zu, %zu at the end\n", count, settled / kKiB, kSettled,
         resident_bytes() / kKiB);
  CHECK_RESIDENT(resident_bytes(), <=, settled + 8 * kMiB);
}

void living_threads(size_t count) {
  constexpr size_t kBlocks = 400;
  size_t before = resident_bytes();
  std::atomic<size_t> live{0};
  std::mutex mutex;
  std::condition_variable condition;
  size_t arrived = 0;
  bool go_on = false;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < count; ++t) {
    threads.emplace_back([&, t] {
      Random random(t);
      std::vector<std::pair<void*, size_t>> blocks;
      for (size_t i = 0; i < kBlocks; ++i) {
        size_t size = random.log_uniform_size(10);
        void* block = malloc(size);
        fill_content(block, size, t * kBlocks + i);
        blocks.emplace_back(block, size);
        live += size;
      }
      std::unique_lock lock(mutex);
      ++arrived;
      condition.notify_all();
      condition.wait(lock, [&] { return go_on; });
      lock.unlock();
      for (size_t i = 0; i < kBlocks; ++i) {
        check_content(blocks[i].first, blocks[i].second, t * kBlocks + i);
        free(blocks[i].first);
      }
    });
  }
  {
    std::unique_lock lock(mutex);
    condition.wait(lock, [&] { return arrived == count; });
    size_t used = resident_bytes() - before;
    printf("%zu threads: %zu KiB resident for %zu live\n", count, used / kKiB, live / kKiB);
    // Stacks and what threads cache: half a MiB each is ample.
    CHECK_RESIDENT(used, <=, live + count * (kMiB / 2));
    go_on = true;
    condition.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
}

// Blocks allocated by threads that are gone serve those that come later.
void memory_of_ended_threads_is_reused() {
  constexpr size_t kBlocks = 2000, kBytes = 1000;
  std::vector<void*> kept;
  size_t settled = 0;
  for (int round = 0; round < 60; ++round) {
    std::thread([&kept] {
      for (void* block : kept) free(block);
      kept.clear();
      for (size_t i = 0; i < kBlocks; ++i) {
        kept.push_back(malloc(kBytes));
        memset(kept.back(), 1, kBytes);
      }
    }).join();
    if (round == 10) settled = resident_bytes();
  }
  CHECK_RESIDENT(resident_bytes(), <=, settled + 6 * kMiB);
  for (void* block : kept) free(block);
}

// One allocates, the other frees, with a bounded number in flight.
void producer_and_consumer(size_t block_bytes, size_t total_bytes, size_t pairs) {
  constexpr size_t kInFlight = 1000;
  size_t before = resident_bytes();
  std::atomic<size_t> peak{0};
  auto run_pair = [&](uint64_t seed) {
    std::mutex mutex;
    std::condition_variable condition;
    std::deque<std::pair<void*, uint64_t>> queue;
    std::thread consumer([&] {
      for (;;) {
        std::unique_lock lock(mutex);
        condition.wait(lock, [&] { return !queue.empty(); });
        auto taken = std::move(queue);
        queue.clear();
        lock.unlock();
        condition.notify_all();
        for (auto [block, tag] : taken) {
          if (block == nullptr) return;
          check_content(block, 16, tag);
          free(block);
        }
      }
    });
    for (size_t bytes = 0, i = 0; bytes < total_bytes; bytes += block_bytes, ++i) {
      void* block = malloc(block_bytes);
      memset(block, 0, block_bytes);
      fill_content(block, 16, seed + i);
      std::unique_lock lock(mutex);
      condition.wait(lock, [&] { return queue.size() < kInFlight; });
      queue.emplace_back(block, seed + i);
      lock.unlock();
      condition.notify_all();
      if (i % 4096 == 0) {
        size_t now = resident_bytes();
        if (now > peak) peak = now;
      }
    }
    std::unique_lock lock(mutex);
    queue.emplace_back(nullptr, 0);
    lock.unlock();
    condition.notify_all();
    consumer.join();
  };
  std::vector<std::thread> producers;
  for (size_t i = 0; i < pairs; ++i) producers.emplace_back(run_pair, i << 32);
  for (std::thread& producer : producers) producer.join();
  printf("%zu bytes, %zu pairs: %zu KiB resident\n", block_bytes, pairs, (peak - before) / kKiB);
  // Live: what is queued and what the consumer has taken but not freed.
  CHECK_RESIDENT(peak.load(), <=, before + pairs * (2 * kInFlight * block_bytes + 4 * kMiB) + 16 * kMiB);
}

// Destructors of thread_local objects free, some of it from other threads.
struct Holder {
  std::vector<std::string> strings;
  void* foreign = nullptr;
  ~Holder() {
    for (std::string& string : strings) CHECK(string == std::string(string.size(), 'h'));
    free(foreign);
    // A destructor may need memory itself.
    std::string last(3000, 'l');
    CHECK(last.back() == 'l');
  }
};
thread_local Holder holder;

void thread_local_destructors() {
  size_t settled = 0;
  for (size_t round = 0; round < rounds(400); ++round) {
    void* block = malloc(5000);
    std::thread([block] {
      holder.foreign = block;
      for (size_t i = 0; i < 100; ++i) holder.strings.emplace_back(i * 10, 'h');
    }).join();
    if (round == 100) settled = resident_bytes();
  }
  CHECK_RESIDENT(resident_bytes(), <=, settled + 6 * kMiB);
}

// Values of keys are destroyed late in a thread's end, again and again as long
// as destructors set new ones (up to PTHREAD_DESTRUCTOR_ITERATIONS rounds).
constexpr int kKeys = 6;
pthread_key_t keys[kKeys];
std::atomic<size_t> destructor_calls{0};

struct KeyValue {
  int key;
  int rounds_left;
  void* blocks[20];
};

KeyValue* make_value(int key, int rounds_left) {
  auto* value = static_cast<KeyValue*>(malloc(sizeof(KeyValue)));
  *value = {key, rounds_left, {}};
  for (size_t i = 0; i < 20; ++i) {
    value->blocks[i] = malloc(100 + i * 300);
    fill_content(value->blocks[i], 100 + i * 300, i);
  }
  return value;
}

void destroy_value(void* argument) {
  auto* value = static_cast<KeyValue*>(argument);
  ++destructor_calls;
  for (size_t i = 0; i < 20; ++i) {
    check_content(value->blocks[i], 100 + i * 300, i);
    free(value->blocks[i]);
  }
  if (value->rounds_left > 0) pthread_setspecific(keys[value->key], make_value(value->key, value->rounds_left - 1));
  free(value);
}

void keys_with_destructors() {
  // In the last round nothing can be put off any more, neither by us nor by the allocator.
  // The thread sanitizer ends its part of a thread in the last round.
  constexpr int kThreads = kSanitized ? 60 : 600, kRounds = PTHREAD_DESTRUCTOR_ITERATIONS - (kThreadSanitizer ? 1 : 0);
  for (pthread_key_t& key : keys) CHECK(pthread_key_create(&key, destroy_value) == 0);
  size_t settled = 0;
  for (int i = 0; i < kThreads; ++i) {
    std::thread([] {
      for (int key = 0; key < kKeys; ++key) pthread_setspecific(keys[key], make_value(key, kRounds - 1));
    }).join();
    if (i == kThreads / 4) settled = resident_bytes();
  }
  CHECK_OP(destructor_calls.load(), ==, size_t{kThreads} * kKeys * kRounds);
  CHECK_RESIDENT(resident_bytes(), <=, settled + 6 * kMiB);
  for (pthread_key_t key : keys) CHECK(pthread_key_delete(key) == 0);
}

// A thread whose very first allocation happens in a destructor of a key.
void first_allocation_at_thread_end() {
  static pthread_key_t key;
  CHECK(pthread_key_create(&key, [](void*) {
          void* block = malloc(777);
          fill_content(block, 777, 1);
          check_content(block, 777, 1);
          free(block);
        }) == 0);
  for (size_t i = 0; i < rounds(500); ++i) {
    pthread_t thread;
    auto body = [](void*) -> void* {
      pthread_setspecific(key, &key);
      return nullptr;
    };
    CHECK(pthread_create(&thread, nullptr, body, nullptr) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
  }
  CHECK(pthread_key_delete(key) == 0);
}

void allocate_until(const std::atomic<bool>& stop) {
  Random random(reinterpret_cast<uintptr_t>(&random));
  std::vector<std::string> strings(100);
  while (!stop) strings[random.below(100)] = std::string(random.log_uniform_size(14), 's');
}

// The process ends while detached threads are in the middle of allocating.
void exit_under_detached_threads() {
  for (int round = 0; round < (kSanitized ? 5 : 15); ++round) {
    ChildResult result = run_in_child([round] {
      static std::atomic<bool> never{false};
      for (int i = 0; i < 4; ++i) std::thread([] { allocate_until(never); }).detach();
      sleep_milliseconds(round % 10);
      exit(0);
      return 1;
    });
    check_exited_cleanly("exit under detached threads", result);
  }
}

// main is gone, a detached thread goes on and ends the process.
void detached_thread_outlives_main() {
  for (int round = 0; round < (kSanitized ? 3 : 10); ++round) {
    ChildResult result = run_in_child([] {
      std::thread([] {
        std::atomic<bool> stop{false};
        std::thread helper([&stop] { allocate_until(stop); });
        sleep_milliseconds(20);
        stop = true;
        helper.join();
        exit(7);
      }).detach();
      pthread_exit(nullptr);
      return 1;
    });
    CHECK(result.exited_with(7));
  }
}

}  // namespace
}  // namespace stress

// threads GROUP [COUNT]
int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  struct {
    const char* name;
    void (*run)(size_t count);
    size_t count;  // of threads, unless the command line says another
  } groups[] = {
      {"storm", short_threads, rounds(10000, 20)},
      {"living",
       [](size_t count) {
         living_threads(count);
         memory_of_ended_threads_is_reused();
       },
       rounds(200, 4)},
      {"handover",
       [](size_t) {
         run_part([] { producer_and_consumer(64, rounds(16 * kMiB), 1); });
         run_part([] { producer_and_consumer(2000, rounds(256 * kMiB), 2); });
         run_part([] { producer_and_consumer(100 * kKiB, rounds(kMiB * 1024), 1); });
       },
       0},
      {"end",
       [](size_t) {
         thread_local_destructors();
         keys_with_destructors();
         first_allocation_at_thread_end();
         exit_under_detached_threads();
         detached_thread_outlives_main();
       },
       0},
  };
  CHECK(argc == 2 || argc == 3);
  for (auto [name, run, count] : groups) {
    if (strcmp(name, argv[1]) != 0) continue;
    run(argc == 3 ? strtoull(argv[2], nullptr, 10) : count);
    return passed(argv[1]);
  }
  return 3;
}
