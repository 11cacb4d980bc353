// What tests/golden counts the instructions of. Runs under callgrind, with an
// allocator preloaded; client requests mark what is counted, so that start-up
// is not.
//
//   workload pair    one malloc(16) and its free between every two dumps
//   workload loop    the same pair 40,000 times, refills included
//   workload mixed   10^6 calls of the whole family, cold parts included
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/callgrind.h>

enum { kWarmUp = 5000, kSteps = 48, kLoop = 40000, kCalls = 1000000, kSlots = 4096, kBurst = 3000 };

// The compiler must not pair a malloc with its free and drop both.
static void* volatile keep;

static void one_pair(void) {
  keep = malloc(16);
  free(keep);
}

static void run_pair(void) {
  for (int i = 0; i < kWarmUp; ++i) one_pair();
  CALLGRIND_ZERO_STATS;
  for (int i = 0; i < kSteps; ++i) {
    one_pair();
    CALLGRIND_DUMP_STATS;
  }
}

static void run_loop(void) {
  for (int i = 0; i < kWarmUp; ++i) one_pair();
  CALLGRIND_ZERO_STATS;
  for (int i = 0; i < kLoop; ++i) one_pair();
  CALLGRIND_DUMP_STATS;
}

static uint64_t random_state = 88172645463325252ULL;

static uint64_t next_random(void) {  // xorshift64: the same sequence in every run
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static char* slots[kSlots];
static char* burst[kBurst];
static long calls;

static char* written(void* pointer) {
  if (pointer == NULL) {
    fputs("workload: out of memory\n", stderr);
    exit(1);
  }
  *(volatile char*)pointer = 1;
  ++calls;
  return pointer;
}

static void release(char** slot) {
  if (*slot != NULL) ++calls;
  free(*slot);
  *slot = NULL;
}

// Mostly small, as programs are: seven of eight up to 128 bytes, one in 128 up
// to 32 KiB.
static size_t next_size(void) {
  uint64_t random = next_random();
  uint64_t size = random >> 16;
  if (random % 128 == 0) return 1 + size % 32768;
  return 1 + size % (random % 8 == 1 ? 1024 : 128);
}

// Half of the operations meet the newest objects, as in programs, where most
// die young; the others any.
static char** next_slot(uint64_t random) {
  return &slots[(random >> 16) % ((random >> 8) % 2 == 0 ? kSlots / 16 : kSlots)];
}

static void one_operation(void) {
  uint64_t random = next_random();
  char** slot = next_slot(random);
  switch (random % 16) {
    case 0:
      release(slot);
      *slot = written(calloc(1 + (random >> 40) % 4, next_size()));
      break;
    case 1: *slot = written(realloc(*slot, next_size())); break;
    case 2:
      release(slot);
      *slot = written(aligned_alloc(64, (next_size() + 63) & ~(size_t)63));
      break;
    case 3:
    case 4: release(slot); break;
    default: release(slot); *slot = written(malloc(next_size()));
  }
}

// A burst of one size empties thread caches and fills slabs; its frees, in the
// order of allocation, retire them.
static void one_burst(void) {
  size_t size = next_size();
  for (int i = 0; i < kBurst; ++i) burst[i] = written(malloc(size < 4096 ? size : 4096));
  for (int i = 0; i < kBurst; ++i) release(&burst[i]);
}

static void one_large(void) {
  char* large = written(malloc(40000 + next_random() % 400000));
  char* huge = written(malloc(3 << 20));
  huge = written(realloc(huge, 5 << 20));
  release(&large);
  release(&huge);
}

static void run_mixed(void) {
  CALLGRIND_ZERO_STATS;
  while (calls < kCalls) {
    for (int i = 0; i < 20000 && calls < kCalls; ++i) one_operation();
    one_burst();
    for (int i = 0; i < 8; ++i) one_large();
  }
  for (int i = 0; i < kSlots; ++i) release(&slots[i]);
  CALLGRIND_DUMP_STATS;
  fprintf(stderr, "calls %ld\n", calls);
}

int main(int argc, char** argv) {
  const char* mode = argc == 2 ? argv[1] : "";
  if (strcmp(mode, "pair") == 0)
    run_pair();
  else if (strcmp(mode, "loop") == 0)
    run_loop();
  else if (strcmp(mode, "mixed") == 0)
    run_mixed();
  else
    return 2;
  return 0;
}
