// Alignment, usable size and rounding over all size ranges: what every block
// promises, while many others are alive.
#include <malloc.h>

#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kPage = 4096;

// What malloc promises without being asked: alignof(max_align_t) on x86-64 and
// AArch64; C allows 8 for blocks of 8 bytes and less.
size_t default_alignment(size_t size) { return size < 16 ? 8 : 16; }

void* allocate_aligned(size_t how, size_t alignment, size_t size) {
  void* block = nullptr;
  switch (how % 3) {
    case 0: return aligned_alloc(alignment, size);
    case 1: return memalign(alignment, size);
    default:
      if (alignment < sizeof(void*)) return memalign(alignment, size);
      CHECK(posix_memalign(&block, alignment, size) == 0);
      return block;
  }
}

struct Block {
  void* address;
  size_t size;
};

void check_alignment(size_t alignment) {
  static const size_t kSizes[] = {1,       2,      7,      8,       16,     17,      24,     31,      48,
                                  64,      100,    128,    129,     255,    256,     500,    1000,    1024,
                                  2000,    4095,   4096,   4097,    8192,   10000,   16384,  30000,   32768,
                                  32769,   65536,  100000, 1 << 17, 200000, 1 << 18, 300000, 1 << 20, (1 << 20) + 1,
                                  3 << 20, 5 << 20};
  constexpr size_t kRounds = 3;
  Block blocks[kRounds * (sizeof kSizes / sizeof *kSizes)];
  size_t count = 0;
  for (size_t round = 0; round < kRounds; ++round) {
    for (size_t size : kSizes) {
      void* block = allocate_aligned(count + round, alignment, size);
      CHECK(block != nullptr);
      CHECK(is_aligned(block, alignment));
      CHECK(is_aligned(block, default_alignment(size)));
      CHECK_OP(malloc_usable_size(block), >=, size);
      fill_content(block, size, count);
      blocks[count++] = {block, size};
    }
  }
  // A realloc promises only the default alignment, and keeps the content.
  for (size_t i = 0; i < count; i += 5) {
    size_t grown = blocks[i].size * 2 + 1;
    blocks[i].address = realloc(blocks[i].address, grown);
    CHECK(blocks[i].address != nullptr);
    check_content(blocks[i].address, blocks[i].size, i);
    fill_content(blocks[i].address, grown, i);
    blocks[i].size = grown;
  }
  for (size_t i = 0; i < count; ++i) check_content(blocks[i].address, blocks[i].size, i);
  for (size_t i = 0; i < count; ++i) free(blocks[i].address);
}

void check_default_alignment() {
  for (size_t size = 1; size <= 70000; size += size < 2100 ? 1 : 61) {
    void* plain = malloc(size);
    void* zeroed = calloc(1, size);
    CHECK(is_aligned(plain, default_alignment(size)));
    CHECK(is_aligned(zeroed, default_alignment(size)));
    free(zeroed);
    free(plain);
  }
}

// All of the usable size belongs to the caller.
void check_usable_size(bool hakmem) {
  for (size_t size = 1; size <= 256 * kKiB; size += size < 4096 ? 1 : 1 + size / 97) {
    void* blocks[4];
    size_t usable = 0;
    for (size_t i = 0; i < 4; ++i) {
      blocks[i] = malloc(size);
      usable = malloc_usable_size(blocks[i]);
      CHECK_OP(usable, >=, size);
      if (hakmem && size > 128) CHECK_OP(usable, <=, size + size / 8 + 16);
      fill_content(blocks[i], usable, size * 4 + i);
    }
    for (size_t i = 0; i < 4; ++i) {
      check_content(blocks[i], malloc_usable_size(blocks[i]), size * 4 + i);
      free(blocks[i]);
    }
  }
}

void check_page_functions() {
  for (size_t size : {size_t{1}, size_t{100}, kPage - 1, kPage, kPage + 1, 3 * kPage + 7, 64 * kKiB, 3 * kMiB + 5}) {
    void* block = valloc(size);
    CHECK(block != nullptr && is_aligned(block, kPage));
    fill_content(block, size, size);
    void* pages = pvalloc(size);
    CHECK(pages != nullptr && is_aligned(pages, kPage));
    size_t rounded = (size + kPage - 1) / kPage * kPage;
    CHECK_OP(malloc_usable_size(pages), >=, rounded);
    fill_content(pages, rounded, size + 1);
    check_content(block, size, size);
    check_content(pages, rounded, size + 1);
    free(block);
    free(pages);
  }
}

}  // namespace
}  // namespace stress

int main() {
  bool hakmem = stress::require_hakmem();
  for (size_t alignment = 1; alignment <= stress::kMiB; alignment *= 2) stress::check_alignment(alignment);
  stress::check_alignment(2 * stress::kMiB);
  stress::check_alignment(4 * stress::kMiB);
  stress::check_default_alignment();
  stress::check_usable_size(hakmem);
  stress::check_page_functions();
  return stress::passed("api_alignment");
}
