// Zero sizes, impossible sizes and wrong alignments in every function of the
// malloc family; errno. Sources: malloc(3), posix_memalign(3), C23 7.24.3, and
// glibc where those leave a choice.
#include <dlfcn.h>
#include <malloc.h>

#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kTooLarge = static_cast<size_t>(PTRDIFF_MAX) + 1;
constexpr size_t kImpossibleSizes[] = {kTooLarge, kTooLarge + 1, SIZE_MAX - 4095, SIZE_MAX - 1, SIZE_MAX};

bool failed_for_memory(void* block) {
  bool failed = block == nullptr && errno == ENOMEM;
  errno = 0;
  return failed;
}

void zero_sizes() {
  // Each is a block of its own that can be freed.
  void* blocks[64];
  for (size_t i = 0; i < 64; ++i) {
    switch (i % 8) {
      case 0: blocks[i] = malloc(opaque(size_t{0})); break;
      case 1: blocks[i] = calloc(opaque(size_t{0}), 8); break;
      case 2: blocks[i] = calloc(8, opaque(size_t{0})); break;
      case 3: blocks[i] = realloc(nullptr, opaque(size_t{0})); break;
      case 4: blocks[i] = aligned_alloc(64, opaque(size_t{0})); break;
      case 5: blocks[i] = memalign(4096, opaque(size_t{0})); break;
      case 6: CHECK(posix_memalign(&blocks[i], 32, opaque(size_t{0})) == 0); break;
      case 7: blocks[i] = valloc(opaque(size_t{0})); break;
    }
    CHECK(blocks[i] != nullptr);
    for (size_t j = 0; j < i; ++j) CHECK(blocks[i] != blocks[j]);
  }
  for (void* block : blocks) free(block);
  void* pages = pvalloc(opaque(size_t{0}));
  CHECK(pages != nullptr);
  free(pages);
  free(nullptr);
  CHECK(malloc_usable_size(nullptr) == 0);
}

void realloc_to_zero_frees() {
  for (size_t size : {size_t{1}, size_t{100}, 5 * kKiB, 300 * kKiB, 40 * kMiB}) {
    void* block = malloc(size);
    CHECK(block != nullptr);
    CHECK(realloc(block, opaque(size_t{0})) == nullptr);
    block = malloc(size);
    CHECK(reallocarray(block, opaque(size_t{0}), 16) == nullptr);
  }
  // Nothing leaks by it: 500 MiB would be seen.
  size_t before = resident_bytes();
  for (int i = 0; i < 1000; ++i) {
    void* block = malloc(32 * kMiB);
    CHECK(block != nullptr);
    memset(block, 1, kMiB / 2);
    CHECK(realloc(block, opaque(size_t{0})) == nullptr);
  }
  CHECK_RESIDENT(resident_bytes(), <=, before + 100 * kMiB);
}

void impossible_sizes() {
  for (size_t size : kImpossibleSizes) {
    errno = 0;
    CHECK(failed_for_memory(malloc(opaque(size))));
    CHECK(failed_for_memory(calloc(1, opaque(size))));
    CHECK(failed_for_memory(calloc(opaque(size), 1)));
    CHECK(failed_for_memory(realloc(nullptr, opaque(size))));
    CHECK(failed_for_memory(reallocarray(nullptr, opaque(size), 1)));
    CHECK(failed_for_memory(memalign(64, opaque(size))));
    CHECK(failed_for_memory(aligned_alloc(4096, opaque(size))));
    CHECK(failed_for_memory(valloc(opaque(size))));
    CHECK(failed_for_memory(pvalloc(opaque(size))));
    void* untouched = &untouched;
    CHECK(posix_memalign(&untouched, 64, opaque(size)) == ENOMEM);
    CHECK(untouched == &untouched);
  }
}

void overflowing_products() {
  constexpr size_t kHalf = size_t{1} << 32;
  constexpr struct {
    size_t count, size;
  } kCases[] = {{kHalf, kHalf},       {kHalf + 1, kHalf},    {SIZE_MAX, 2},          {2, SIZE_MAX},
                {SIZE_MAX, SIZE_MAX}, {SIZE_MAX / 2 + 2, 2}, {SIZE_MAX / 16 + 2, 16}};
  for (auto [count, size] : kCases) {
    errno = 0;
    CHECK(failed_for_memory(calloc(opaque(count), opaque(size))));
    CHECK(failed_for_memory(reallocarray(nullptr, opaque(count), opaque(size))));
    // A failed reallocarray leaves the block as it was.
    void* block = malloc(1000);
    fill_content(block, 1000, 7);
    CHECK(failed_for_memory(reallocarray(block, opaque(count), opaque(size))));
    check_content(block, 1000, 7);
    free(block);
  }
}

void failed_realloc_keeps_block() {
  for (size_t size : {size_t{24}, 2 * kKiB, 100 * kKiB, 3 * kMiB, 48 * kMiB}) {
    void* block = malloc(size);
    fill_content(block, size, size);
    for (size_t impossible : kImpossibleSizes) {
      errno = 0;
      CHECK(failed_for_memory(realloc(block, opaque(impossible))));
    }
    check_content(block, size, size);
    free(block);
  }
}

void wrong_alignments(bool hakmem) {
  for (size_t alignment : {size_t{0}, size_t{1}, size_t{2}, size_t{4}, size_t{7}, size_t{12}, size_t{24}, size_t{48},
                           size_t{100}, size_t{4097}, SIZE_MAX}) {
    void* untouched = &untouched;
    errno = 0;
    CHECK(posix_memalign(&untouched, opaque(alignment), 64) == EINVAL);
    CHECK(untouched == &untouched);
    CHECK(errno == 0);  // the result is the return value; errno is not set
    bool power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
    // glibc before 2.38 rounds the alignment of aligned_alloc up.
    if (power_of_two || !hakmem) continue;
    CHECK(aligned_alloc(opaque(alignment), 64) == nullptr);
    CHECK(errno == EINVAL);
  }
  // memalign rounds an alignment up to the next power of two, as glibc does.
  for (size_t alignment : {size_t{0}, size_t{1}, size_t{3}, size_t{24}, size_t{100}, size_t{1000}, size_t{5000}}) {
    size_t rounded = 1;
    while (rounded < alignment) rounded *= 2;
    void* block = memalign(opaque(alignment), 100);
    CHECK(block != nullptr);
    CHECK(is_aligned(block, rounded));
    fill_content(block, 100, alignment);
    check_content(block, 100, alignment);
    free(block);
  }
  errno = 0;
  CHECK(memalign(opaque((SIZE_MAX / 2) + 2), 64) == nullptr);
  CHECK(errno == EINVAL);
  errno = 0;
  CHECK(failed_for_memory(memalign(opaque(size_t{1} << 62), 64)));
  CHECK(failed_for_memory(aligned_alloc(opaque(size_t{1} << 50), 64)));
  void* untouched = &untouched;
  CHECK(posix_memalign(&untouched, opaque(size_t{1} << 62), 64) == ENOMEM);
  CHECK(untouched == &untouched);
}

void free_keeps_errno() {
  for (size_t size : {size_t{8}, size_t{500}, 20 * kKiB, 200 * kKiB, 2 * kMiB, 80 * kMiB}) {
    void* blocks[32];
    for (void*& block : blocks) {
      block = malloc(size);
      CHECK(block != nullptr);
    }
    for (void* block : blocks) {
      errno = 4711;
      free(block);
      CHECK(errno == 4711);
    }
  }
  // A success does not have to keep errno, but must not report an error by it.
  errno = 0;
  free(malloc(100));
  CHECK(errno == 0);
}

void sized_frees(bool hakmem) {
  using FreeSized = void (*)(void*, size_t);
  using FreeAlignedSized = void (*)(void*, size_t, size_t);
  auto free_sized = reinterpret_cast<FreeSized>(dlsym(RTLD_DEFAULT, "free_sized"));
  auto free_aligned_sized = reinterpret_cast<FreeAlignedSized>(dlsym(RTLD_DEFAULT, "free_aligned_sized"));
  if ((!hakmem || kSanitized) && free_sized == nullptr) return;  // linked in, it has no name
  CHECK(free_sized != nullptr);
  CHECK(free_aligned_sized != nullptr);
  free_sized(nullptr, 0);
  free_aligned_sized(nullptr, 64, 0);
  // Blocks that were freed come back: the resident memory stays where it was.
  size_t before = 0;
  for (int round = 0; round < 20; ++round) {
    for (size_t size : {size_t{0}, size_t{1}, size_t{16}, size_t{777}, 9 * kKiB, 130 * kKiB, 1 * kMiB, 20 * kMiB}) {
      void* block = malloc(size);
      memset(block, 1, size);
      free_sized(block, size);
      block = calloc(1, size);
      free_sized(block, size);
      for (size_t alignment : {size_t{16}, size_t{64}, size_t{4096}, 64 * kKiB}) {
        size_t rounded = (size + alignment - 1) & ~(alignment - 1);
        block = aligned_alloc(alignment, rounded);
        CHECK(block != nullptr);
        if (rounded != 0) memset(block, 2, rounded);
        free_aligned_sized(block, alignment, rounded);
      }
    }
    if (round == 0) before = resident_bytes();
  }
  CHECK_RESIDENT(resident_bytes(), <=, before + 48 * kMiB);
}

}  // namespace
}  // namespace stress

int main() {
  bool hakmem = stress::require_hakmem();
  stress::zero_sizes();
  stress::realloc_to_zero_frees();
  stress::impossible_sizes();
  stress::overflowing_products();
  stress::failed_realloc_keeps_block();
  stress::wrong_alignments(hakmem);
  stress::free_keeps_errno();
  stress::sized_frees(hakmem);
  return stress::passed("api_errors");
}
