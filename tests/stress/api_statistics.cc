// malloc_trim, mallinfo, mallinfo2, malloc_stats, malloc_info and mallopt: they
// answer with plausible figures and in the documented place.
#include <malloc.h>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kBlocks = 4096;
constexpr size_t kBlockBytes = 4 * kKiB;
constexpr size_t kHugeBytes = 64 * kMiB;
void* blocks[kBlocks];

// The function is deprecated, and programs call it still.
struct mallinfo old_mallinfo() {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  return mallinfo();
#pragma GCC diagnostic pop
}

size_t live_bytes() {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

void mallinfo2_follows_live_bytes() {
  free(malloc(100));
  size_t before = live_bytes();
  for (void*& block : blocks) {
    block = malloc(kBlockBytes);
    memset(block, 1, kBlockBytes);
  }
  constexpr size_t kLive = kBlocks * kBlockBytes;
  CHECK_OP(live_bytes() - before, >=, kLive);
  CHECK_OP(live_bytes() - before, <=, kLive + kLive / 8 + 2 * kMiB);
  void* huge = malloc(kHugeBytes);
  CHECK_OP(live_bytes() - before, >=, kLive + kHugeBytes);
  struct mallinfo2 info = mallinfo2();
  CHECK_OP(info.arena + info.hblkhd, >=, info.uordblks);
  struct mallinfo narrow = old_mallinfo();
  CHECK_OP(static_cast<size_t>(narrow.uordblks) + static_cast<size_t>(narrow.hblkhd), >=, kLive + kHugeBytes);
  free(huge);
  CHECK_OP(live_bytes() - before, <=, kLive + kLive / 8 + 2 * kMiB);
  for (void* block : blocks) free(block);
  // What a thread cache still lists may or may not count as in use.
  CHECK_OP(live_bytes(), <=, before + 2 * kMiB);
}

// mallinfo's fields are int: above 2 GiB they must not turn negative or small
// in a way that a reader takes for a figure (glibc wraps; we only ask for no crash).
void mallinfo_of_a_large_heap() {
  void* huge = malloc(size_t{3} << 30);
  CHECK(huge != nullptr);
  struct mallinfo narrow = old_mallinfo();
  (void)narrow;
  struct mallinfo2 info = mallinfo2();
  CHECK_OP(info.uordblks + info.hblkhd, >=, size_t{3} << 30);
  free(huge);
}

void trim_gives_memory_back() {
  for (void*& block : blocks) {
    block = malloc(8 * kBlockBytes);
    memset(block, 1, 8 * kBlockBytes);
  }
  size_t full = resident_bytes();
  for (void* block : blocks) free(block);
  int trimmed = malloc_trim(0);
  CHECK(trimmed == 0 || trimmed == 1);
  constexpr size_t kFreed = kBlocks * 8 * kBlockBytes;
  CHECK_OP(resident_bytes(), <=, full - kFreed * 9 / 10);
  // Once more finds little to do, and a pad is accepted.
  CHECK(malloc_trim(0) <= 1);
  CHECK(malloc_trim(kMiB) <= 1);
}

void stats_go_to_stderr() {
  void* block = malloc(1234567);
  ChildResult result = run_in_child([] {
    close(1);
    malloc_stats();
    return 0;
  });
  CHECK(result.exited_with(0));
  CHECK_OP(strlen(result.output), >, size_t{20});
  CHECK(strchr(result.output, '\n') != nullptr);
  CHECK(strpbrk(result.output, "123456789") != nullptr);
  free(block);
  // With stderr closed it prints nowhere, and harms nothing.
  result = run_in_child([] {
    close(2);
    int file = open("/proc/self/maps", O_RDONLY);  // takes number 2, read-only
    malloc_stats();
    return file == 2 ? 0 : 1;
  });
  CHECK(result.exited_with(0));
  CHECK(result.output[0] == '\0');
}

void info_is_xml() {
  char* text = nullptr;
  size_t length = 0;
  FILE* stream = open_memstream(&text, &length);
  CHECK(stream != nullptr);
  CHECK(malloc_info(0, stream) == 0);
  fclose(stream);
  CHECK(strncmp(text, "<malloc", 7) == 0);
  CHECK(strstr(text, "</malloc>") != nullptr);
  // Every element is closed: as many "<name" as "</name" and "/>" together.
  size_t opened = 0, closed = 0;
  for (const char* at = text; (at = strchr(at, '<')) != nullptr; ++at) (at[1] == '/' ? closed : opened) += 1;
  for (const char* at = text; (at = strstr(at, "/>")) != nullptr; ++at) closed += 1;
  CHECK_OP(opened, ==, closed);
  free(text);
  stream = fopen("/dev/null", "w");
  CHECK(malloc_info(opaque(1), stream) != 0);
  fclose(stream);
}

void options_are_accepted(bool hakmem) {
  CHECK(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1);
  CHECK(mallopt(M_TRIM_THRESHOLD, 1 << 20) == 1);
  CHECK(mallopt(M_ARENA_MAX, 1) == 1);
  if (hakmem) CHECK(mallopt(M_TOP_PAD, 1 << 16) == 1);
}

}  // namespace
}  // namespace stress

int main() {
  bool hakmem = stress::require_hakmem();
  stress::mallinfo2_follows_live_bytes();
  stress::mallinfo_of_a_large_heap();
  stress::trim_gives_memory_back();
  stress::stats_go_to_stderr();
  stress::info_is_xml();
  stress::options_are_accepted(hakmem);
  return stress::passed("api_statistics");
}
