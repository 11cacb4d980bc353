// What the instructions are counted of, under callgrind, with an allocator
// preloaded: one row of the table a run. A row is done once to warm up, then
// again and counted, so that neither start-up nor first use is in the figures:
// the first dump is of what came before. (To zero the statistics instead would
// leave the system calls counted.)
//
//   bench_instructions ROW     see kRows, or
//   bench_instructions pair    one malloc(16) and its free between every two dumps
//   bench_instructions mixed   10^6 calls of the whole family, cold parts included
//
// Instructions of this file's own do not count, so nothing here may call into
// libc while it is measured, but for the allocator.
#include <pthread.h>
#include <valgrind/callgrind.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

constexpr int kBatch = 1000;
constexpr int kFew = 10;
constexpr int kLive = 16'000;

uint64_t random_state = 88172645463325252u;

uint64_t next_random() {  // xorshift64: the same sequence in every run
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

// The compiler must not pair a malloc with its free and drop both.
void* volatile keep;

void pair_of(size_t bytes) {
  keep = std::malloc(bytes);
  std::free(keep);
}

template <size_t bytes>
void pair() {
  pair_of(bytes);
}

// -- batches ---------------------------------------------------------------------------------------------------------

void* batch[kBatch];
int shuffled[kBatch];

size_t small_size(int i) { return 8 + static_cast<size_t>(i * 37 % 121); }

void fifo() {
  for (int i = 0; i < kBatch; ++i) batch[i] = std::malloc(small_size(i));
  for (void* block : batch) std::free(block);
}

void shuffle() {
  for (int i = 0; i < kBatch; ++i) shuffled[i] = i;
  for (uint64_t i = kBatch; i > 1; --i) {
    uint64_t other = next_random() % i;
    int index = shuffled[other];
    shuffled[other] = shuffled[i - 1];
    shuffled[i - 1] = index;
  }
}

void random_order() {
  for (int i = 0; i < kBatch; ++i) batch[i] = std::malloc(small_size(i));
  for (int index : shuffled) std::free(batch[index]);
}

template <size_t bytes>
void few() {
  for (int i = 0; i < kFew; ++i) batch[i] = std::malloc(bytes);
  for (int i = 0; i < kFew; ++i) std::free(batch[i]);
}

// -- steady replacement ----------------------------------------------------------------------------------------------

void* live[kLive];

void fill() {
  for (int i = 0; i < kLive; ++i) live[i] = std::malloc(small_size(i));
}

void steady() {
  uint64_t random = next_random();
  void*& block = live[(random >> 16) % kLive];
  std::free(block);
  block = std::malloc(8 + (random >> 40) % 121);
}

// -- remote frees ----------------------------------------------------------------------------------------------------

// The two threads take turns. Waiting is done here and by a raw system call:
// a semaphore's instructions would be libc's.
enum Turn : int { Producer, Consumer };
std::atomic<int> turn{Producer};

void yield() {
  long result = 24;  // sched_yield
  asm volatile("syscall" : "+a"(result) : : "rcx", "r11", "memory");
}

void wait_for(Turn whose) {
  while (turn.load(std::memory_order_acquire) != whose) yield();
}

[[noreturn]] void* consume(void*) {
  for (;;) {
    wait_for(Consumer);
    for (void* block : batch) std::free(block);
    turn.store(Producer, std::memory_order_release);
  }
}

void start_consumer() {
  pthread_t consumer;
  if (pthread_create(&consumer, nullptr, consume, nullptr) != 0) std::abort();
}

void remote() {
  for (void*& block : batch) block = std::malloc(64);
  turn.store(Consumer, std::memory_order_release);
  wait_for(Producer);
}

// -- the other calls -------------------------------------------------------------------------------------------------

void calloc_pair() {
  keep = std::calloc(1, 64);
  std::free(keep);
}

void aligned_pair() {
  keep = std::aligned_alloc(64, 64);
  std::free(keep);
}

void new_pair() {
  keep = ::operator new(48);
  ::operator delete(keep, 48);
}

void* buffer;

void first_buffer() { buffer = std::malloc(100); }

// 100 and 104 bytes are of one size class in every allocator compared.
void realloc_same() {
  buffer = std::realloc(buffer, 104);
  buffer = std::realloc(buffer, 100);
}

// 16 bytes, doubled up to 4 KiB: 8 steps, each copies.
void realloc_grow() {
  void* grown = std::malloc(16);
  for (size_t bytes = 32; bytes <= 4096; bytes *= 2) grown = std::realloc(grown, bytes);
  std::free(grown);
}

void nothing() {}

struct Row {
  const char* name;
  void (*prepare)();
  void (*round)();
  long rounds;
  long pairs;  // or single calls of realloc, in a round
};

constexpr Row kRows[] = {
    {"pair16", nothing, pair<16>, 40'000, 1},
    {"fifo", nothing, fifo, 100, kBatch},
    {"random", shuffle, random_order, 100, kBatch},
    {"steady16k", fill, steady, 160'000, 1},
    {"remote", start_consumer, remote, 100, kBatch},
    {"2k", nothing, pair<2048>, 20'000, 1},
    {"20k", nothing, pair<20'000>, 20'000, 1},
    {"100k", nothing, pair<100'000>, 20'000, 1},
    {"2k_x10", nothing, few<2048>, 2000, kFew},
    {"20k_x10", nothing, few<20'000>, 2000, kFew},
    {"100k_x10", nothing, few<100'000>, 2000, kFew},
    {"calloc64", nothing, calloc_pair, 20'000, 1},
    {"aligned64", nothing, aligned_pair, 20'000, 1},
    {"new48", nothing, new_pair, 20'000, 1},
    {"realloc_same", first_buffer, realloc_same, 10'000, 2},
    {"realloc_grow", nothing, realloc_grow, 2000, 8},
};

void run_row(const Row& row) {
  row.prepare();
  for (long i = 0; i < row.rounds; ++i) row.round();
  CALLGRIND_DUMP_STATS;
  for (long i = 0; i < row.rounds; ++i) row.round();
  CALLGRIND_DUMP_STATS;
  std::fprintf(stderr, "calls %ld\n", row.rounds * row.pairs);
}

void run_pair() {
  constexpr int kWarmUp = 5000, kSteps = 48;
  for (int i = 0; i < kWarmUp; ++i) pair_of(16);
  CALLGRIND_DUMP_STATS;
  for (int i = 0; i < kSteps; ++i) {
    pair_of(16);
    CALLGRIND_DUMP_STATS;
  }
  std::fprintf(stderr, "calls 1\n");
}

// -- mixed -----------------------------------------------------------------------------------------------------------

constexpr long kCalls = 1'000'000, kWarmUpCalls = 200'000;
constexpr int kSlots = 4096, kBurst = 3000;

void* slots[kSlots];
void* burst[kBurst];
long calls;

void* written(void* pointer) {
  if (pointer == nullptr) {
    std::fputs("bench_instructions: out of memory\n", stderr);
    std::exit(1);
  }
  *static_cast<volatile char*>(pointer) = 1;
  ++calls;
  return pointer;
}

void release(void*& slot) {
  if (slot != nullptr) ++calls;
  std::free(slot);
  slot = nullptr;
}

// Mostly small, as programs are: seven of eight up to 128 bytes, one in 128 up
// to 32 KiB.
size_t next_size() {
  uint64_t random = next_random();
  uint64_t size = random >> 16;
  if (random % 128 == 0) return 1 + size % 32768;
  return 1 + size % (random % 8 == 1 ? 1024 : 128);
}

// Half of the operations meet the newest objects, as in programs, where most
// die young; the others any.
void*& next_slot(uint64_t random) { return slots[(random >> 16) % ((random >> 8) % 2 == 0 ? kSlots / 16 : kSlots)]; }

void one_operation() {
  uint64_t random = next_random();
  void*& slot = next_slot(random);
  switch (random % 16) {
    case 0:
      release(slot);
      slot = written(std::calloc(1 + (random >> 40) % 4, next_size()));
      break;
    case 1: slot = written(std::realloc(slot, next_size())); break;
    case 2:
      release(slot);
      slot = written(std::aligned_alloc(64, (next_size() + 63) & ~size_t{63}));
      break;
    case 3:
    case 4: release(slot); break;
    default: release(slot); slot = written(std::malloc(next_size()));
  }
}

// A burst of one size empties thread caches and fills slabs; its frees, in the
// order of allocation, retire them.
void one_burst() {
  size_t size = next_size();
  for (void*& block : burst) block = written(std::malloc(size < 4096 ? size : 4096));
  for (void*& block : burst) release(block);
}

void one_large() {
  void* large = written(std::malloc(40'000 + next_random() % 400'000));
  void* huge = written(std::malloc(3 << 20));
  huge = written(std::realloc(huge, 5 << 20));
  release(large);
  release(huge);
}

void run_mixed_until(long count) {
  while (calls < count) {
    for (int i = 0; i < 20'000 && calls < count; ++i) one_operation();
    one_burst();
    for (int i = 0; i < 8; ++i) one_large();
  }
}

void run_mixed() {
  // What comes once in a process is over then: the first superslabs, hakmem's stats page.
  run_mixed_until(kWarmUpCalls);
  calls = 0;
  CALLGRIND_DUMP_STATS;
  run_mixed_until(kCalls);
  for (void*& slot : slots) release(slot);
  CALLGRIND_DUMP_STATS;
  std::fprintf(stderr, "calls %ld\n", calls);
}

}  // namespace

int main(int argc, char** argv) {
  const char* name = argc == 2 ? argv[1] : "";
  for (const Row& row : kRows) {
    if (std::strcmp(name, row.name) != 0) continue;
    run_row(row);
    return 0;
  }
  if (std::strcmp(name, "pair") == 0)
    run_pair();
  else if (std::strcmp(name, "mixed") == 0)
    run_mixed();
  else
    return 2;
  return 0;
}
