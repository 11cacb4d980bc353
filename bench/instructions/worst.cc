// A hostile program, of whose calls worst.py finds the longest, with an
// allocator preloaded.
//
//   bench_worst dumps   under callgrind: a dump of each call that may be among
//                       the longest. A dump of every call would take hours, so
//                       it is made where a call took more time than about 99 of
//                       100 of its kind; time under callgrind follows the
//                       instructions, and a dump too many does no harm.
//   bench_worst marks   under strace: a close() before and after each call that
//                       says by its number what comes.
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <valgrind/callgrind.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace {

// -- measuring -------------------------------------------------------------------------------------------------------

enum Kind { SmallMalloc, LargeMalloc, HugeMalloc, SmallFree, LargeFree, HugeFree, kKinds };
constexpr const char* kKindNames[kKinds] = {"malloc to 1 KiB", "malloc to 1 MiB", "malloc above",
                                            "free to 1 KiB",   "free to 1 MiB",   "free above"};
// What worst.py reads: -1000 and down a kind, -2000 and down a phase.
enum Mark : long { kCallEnds = -999, kFirstKind = -1000, kFirstPhase = -2000 };

bool has_marks;
char labels[kKinds][64];    // of the kinds in this phase
double long_ticks[kKinds];  // above it a call is dumped

void mark(long number) { syscall(SYS_close, number); }

template <class Function>
void measure(int kind, Function function) {
  if (has_marks) {
    mark(kFirstKind - kind);
    function();
    return mark(kCallEnds);
  }
  CALLGRIND_ZERO_STATS;
  uint64_t start = __rdtsc();
  function();
  auto ticks = static_cast<double>(__rdtsc() - start);
  // Settles where one call in a hundred is above.
  if (ticks <= long_ticks[kind]) {
    long_ticks[kind] *= 0.999;
    return;
  }
  long_ticks[kind] = long_ticks[kind] * 1.1 + 100;
  CALLGRIND_DUMP_STATS_AT(labels[kind]);
}

Kind kind_of(size_t bytes) { return bytes <= 1024 ? SmallMalloc : bytes <= 1 << 20 ? LargeMalloc : HugeMalloc; }

struct Block {
  void* address = nullptr;
  size_t bytes = 0;
};

void take(Block& block, size_t bytes) {
  block.bytes = bytes;
  measure(kind_of(bytes), [&] { block.address = std::malloc(bytes); });
  if (block.address == nullptr) {
    std::fputs("bench_worst: out of memory\n", stderr);
    std::exit(1);
  }
}

void give(Block& block) {
  if (block.address == nullptr) return;
  measure(kind_of(block.bytes) + SmallFree, [&] { std::free(block.address); });
  block.address = nullptr;
}

// -- the hostile program ---------------------------------------------------------------------------------------------

uint64_t random_state = 88172645463325252u;

uint64_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

constexpr size_t kBlocks = 20'000;
Block blocks[kBlocks];

void shuffle(size_t count) {
  for (size_t i = count; i > 1; --i) std::swap(blocks[i - 1], blocks[next_random() % i]);
}

void free_all(size_t count = kBlocks) {
  for (size_t i = 0; i < count; ++i) give(blocks[i]);
}

// Lets the time pass after which allocators give memory back, then calls once each.
void let_time_pass() {
  for (int i = 0; i < 3; ++i) {
    usleep(1'100'000);
    for (size_t bytes : {size_t{48}, size_t{3000}, size_t{70'000}, size_t{3} << 20}) {
      Block block;
      take(block, bytes);
      give(block);
    }
  }
}

size_t mixed_size() {
  uint64_t random = next_random();
  uint64_t size = random >> 16;
  if (random % 1024 == 0) return 1 + size % (4 << 20);
  if (random % 64 == 1) return 1 + size % 200'000;
  return 1 + size % (random % 8 == 2 ? 4096 : 160);
}

// Random replacement of all sizes.
void mixed() {
  for (int i = 0; i < 100'000; ++i) {
    Block& block = blocks[next_random() % 8000];
    give(block);
    take(block, mixed_size());
  }
  shuffle(8000);
  free_all();
}

// Of one size after the other as many blocks as 64 MiB hold, up to 20,000, freed in three orders.
void bursts() {
  for (size_t bytes : {16, 64, 400, 2048, 9000, 40'000, 200'000}) {
    size_t count = std::min(kBlocks / 4, (size_t{64} << 20) / bytes);
    for (int order = 0; order < 3; ++order) {
      for (size_t i = 0; i < count; ++i) take(blocks[i], bytes);
      if (order == 1) std::reverse(blocks, blocks + count);
      if (order == 2) shuffle(count);
      free_all(count);
    }
  }
}

// A GiB of addresses, little of it touched, in which every second block is freed, then the others.
void holes() {
  for (size_t i = 0; i < 8000; ++i) {
    take(blocks[i], 70'000 + i % 2 * 60'000);
    *static_cast<volatile char*>(blocks[i].address) = 1;
  }
  for (size_t i = 0; i < 8000; i += 2) give(blocks[i]);
  let_time_pass();
  shuffle(8000);
  free_all();
  let_time_pass();
}

// Eight blocks of 8 KiB stay, eight go: in allocators that keep runs of 64 KiB, every second run is free.
void sieve() {
  for (Block& block : blocks) take(block, 8192);
  for (size_t i = 0; i < kBlocks; ++i)
    if (i / 8 % 2 == 0) give(blocks[i]);
  let_time_pass();
  free_all();
}

// Many mappings of their own, of sizes that do not repeat.
void huge() {
  for (size_t i = 0; i < kBlocks / 2; ++i) take(blocks[i], (size_t{9} << 17) + i * 512);
  shuffle(kBlocks / 2);
  free_all();
  let_time_pass();
}

void* in_thread(void (*function)()) {
  pthread_t thread;
  auto run = [](void* argument) -> void* {
    reinterpret_cast<void (*)()>(argument)();
    return nullptr;
  };
  if (pthread_create(&thread, nullptr, run, reinterpret_cast<void*>(function)) != 0) std::abort();
  pthread_join(thread, nullptr);
  return nullptr;
}

// Blocks of one thread freed by another, then allocated again.
void remote() {
  for (size_t bytes : {16, 64, 1024, 20'000}) {
    for (int round = 0; round < 2; ++round) {
      for (size_t i = 0; i < kBlocks / 4; ++i) take(blocks[i], bytes);
      if (round == 1) shuffle(kBlocks / 4);
      in_thread([] { free_all(); });
    }
  }
}

// Threads that leave half of their blocks behind; others free these.
void threads() {
  for (int i = 0; i < 8; ++i) {
    in_thread([] {
      for (size_t k = 0; k < kBlocks; ++k)
        if (blocks[k].address == nullptr && next_random() % 4 == 0) take(blocks[k], mixed_size());
      for (size_t k = 0; k < kBlocks; k += 2) give(blocks[k]);
    });
  }
  shuffle(kBlocks);
  free_all();
}

}  // namespace

int main(int argc, char** argv) {
  has_marks = argc == 2 && std::strcmp(argv[1], "marks") == 0;
  if (!has_marks && (argc != 2 || std::strcmp(argv[1], "dumps") != 0)) return 2;
  constexpr std::pair<const char*, void (*)()> kPhases[] = {{"mixed", mixed},    {"bursts", bursts}, {"holes", holes},
                                                            {"sieve", sieve},    {"huge", huge},     {"remote", remote},
                                                            {"threads", threads}};
  for (long i = 0; auto [name, run] : kPhases) {
    if (has_marks) mark(kFirstPhase - i++);
    for (int kind = 0; kind < kKinds; ++kind)
      std::snprintf(labels[kind], sizeof labels[kind], "%s, %s", kKindNames[kind], name);
    run();
  }
  return 0;
}
