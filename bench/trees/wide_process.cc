// One process with many threads and many slabs, for measuring its scrapes:
//   bench_wide_process THREADS GIBIBYTES
// The threads hold blocks of several classes each; the slabs are the smallest that there are, of 32 KiB, and hold
// four blocks of 8 KiB, of the first of which a page is resident. Huge pages are off: so this needs little memory,
// and small pages are what a scrape takes longest for.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <vector>

namespace {

constexpr size_t kBlockBytes = 8 << 10;
constexpr size_t kSlabBytes = 32 << 10;
constexpr size_t kStackBytes = 64 << 10;

std::atomic<size_t> started{0};

void* hold_blocks(void*) {
  std::vector<void*> blocks;
  for (size_t bytes = 16; bytes <= 4096; bytes *= 2)
    for (int i = 0; i < 8; ++i) blocks.push_back(malloc(bytes));
  for (size_t i = 0; i < blocks.size(); i += 2) free(blocks[i]);
  started.fetch_add(1);
  for (;;) pause();
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  size_t threads = strtoul(arguments[1], nullptr, 10);
  size_t bytes = strtoul(arguments[2], nullptr, 10) << 30;
  std::vector<void*> blocks;
  for (size_t held = 0; held < bytes; held += kBlockBytes) {
    blocks.push_back(malloc(kBlockBytes));
    auto address = reinterpret_cast<uintptr_t>(blocks.back());
    if (address % kBlockBytes == 0 && address % kSlabBytes != 0) madvise(blocks.back(), kBlockBytes, MADV_DONTNEED);
  }
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  for (size_t i = 0; i < threads; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, hold_blocks, nullptr) != 0) return 1;
  }
  while (started.load() < threads) usleep(1000);
  printf("%zu threads, %zu blocks of %zu bytes\n", threads, blocks.size(), kBlockBytes);
  fflush(stdout);
  getchar();
  _exit(0);
}
