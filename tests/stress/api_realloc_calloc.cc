// realloc keeps content through every kind of growth and shrink; calloc gives
// zeros where memory was dirty before.
#include <malloc.h>

#include "tests/stress/content.h"

namespace stress {
namespace {

void* checked_realloc(void* block, size_t old_size, size_t new_size, uint64_t tag) {
  void* moved = realloc(block, new_size);
  CHECK(moved != nullptr);
  CHECK_OP(malloc_usable_size(moved), >=, new_size);
  check_content(moved, old_size < new_size ? old_size : new_size, tag, old_size);
  fill_content(moved, new_size, tag);
  return moved;
}

// Growing and shrinking step by step, with a neighbour of each size alive.
void stepwise(size_t numerator, size_t denominator, size_t limit) {
  size_t size = 1;
  void* block = malloc(size);
  fill_content(block, size, 1);
  void* neighbours[128];
  size_t neighbour_sizes[128];
  size_t count = 0;
  while (size < limit) {
    size_t grown = size * numerator / denominator + 1;
    if (count < 128 && grown < 2 * kMiB) {
      neighbour_sizes[count] = grown;
      neighbours[count] = malloc(grown);
      fill_content(neighbours[count], grown, 1000 + count);
      ++count;
    }
    block = checked_realloc(block, size, grown, 1);
    size = grown;
  }
  while (size > 1) {
    size_t shrunk = size * denominator / numerator;
    if (shrunk == size) --shrunk;
    block = checked_realloc(block, size, shrunk, 1);
    size = shrunk;
  }
  free(block);
  for (size_t i = 0; i < count; ++i) {
    check_content(neighbours[i], neighbour_sizes[i], 1000 + i);
    free(neighbours[i]);
  }
}

// From every range to every other: tiny, slab, large, huge.
void jumps() {
  static const size_t kSizes[] = {1,       16,       100,      1000,    5000,    20000,   33000,
                                  70000,   130000,   262144,   300000,  1 << 20, 2000000, (2 << 20) + 1,
                                  5 << 20, 17 << 20, 33 << 20, 65 << 20};
  uint64_t tag = 0;
  for (size_t from : kSizes) {
    for (size_t to : kSizes) {
      void* block = ++tag % 2 ? malloc(from) : calloc(1, from);
      CHECK(block != nullptr);
      fill_content(block, from, tag);
      block = checked_realloc(block, from, to, tag);
      block = checked_realloc(block, to, from, tag);
      free(block);
    }
  }
}

// A huge block that grows by small steps must not be copied each time: 2,000
// steps over 256 MiB would move 500 GiB. It has one page in 64 KiB written.
void huge_growth() {
  constexpr size_t kStep = 128 * kKiB;
  constexpr size_t kFirst = 8 * kMiB;
  constexpr size_t kLast = 256 * kMiB;
  auto* block = static_cast<uint64_t*>(malloc(kFirst));
  CHECK(block != nullptr);
  size_t stamped = 0;
  double start = now_seconds();
  for (size_t size = kFirst; size <= kLast; size += kStep) {
    block = static_cast<uint64_t*>(realloc(block, size));
    CHECK(block != nullptr);
    for (; stamped + 64 * kKiB <= size; stamped += 64 * kKiB) block[stamped / 8] = stamped;
  }
  for (size_t i = 0; i < stamped; i += 64 * kKiB) CHECK(block[i / 8] == i);
  CHECK_OP(now_seconds() - start, <, 10.0);
  for (size_t size = kLast; size >= kFirst; size -= 4 * kMiB) {
    block = static_cast<uint64_t*>(realloc(block, size));
    CHECK(block != nullptr);
    for (size_t i = 0; i + 64 * kKiB <= size; i += 64 * kKiB) CHECK(block[i / 8] == i);
  }
  free(block);
}

void realloc_of_null_and_same() {
  for (size_t size : {size_t{1}, size_t{64}, 3 * kKiB, 90 * kKiB, 7 * kMiB}) {
    void* block = realloc(opaque<void*>(nullptr), size);
    CHECK(block != nullptr);
    fill_content(block, size, size);
    // To the size it has: the block may not lose a byte, and to its whole usable size either.
    block = checked_realloc(block, size, size, size);
    block = checked_realloc(block, size, malloc_usable_size(block), size);
    free(block);
    block = reallocarray(nullptr, size, 3);
    CHECK(block != nullptr);
    fill_content(block, size * 3, size);
    block = reallocarray(block, size, 6);
    check_content(block, size * 3, size);
    free(block);
  }
}

// An aligned block grows and shrinks like any other.
void realloc_of_aligned() {
  for (size_t alignment : {size_t{32}, size_t{4096}, 64 * kKiB, 2 * kMiB}) {
    for (size_t size : {size_t{1}, size_t{50}, 6 * kKiB, 200 * kKiB, 3 * kMiB}) {
      void* block = aligned_alloc(alignment, size);
      fill_content(block, size, alignment);
      block = checked_realloc(block, size, size * 3 + 5, alignment);
      block = checked_realloc(block, size * 3 + 5, size, alignment);
      free(block);
    }
  }
}

void dirty(size_t size, size_t count) {
  constexpr size_t kMax = 64;
  void* blocks[kMax];
  CHECK(count <= kMax);
  for (size_t i = 0; i < count; ++i) {
    blocks[i] = malloc(size);
    CHECK(blocks[i] != nullptr);
    memset(blocks[i], 0xa5, malloc_usable_size(blocks[i]));
  }
  for (size_t i = 0; i < count; ++i) free(blocks[i]);
}

void calloc_of_dirty_memory() {
  static const size_t kSizes[] = {1,     8,      16,      24,     40,      64,      100,     128,     200,
                                  500,   1000,   2000,    4096,   5000,    9000,    16384,   32768,   40000,
                                  65536, 100000, 1 << 18, 400000, 1 << 20, 3 << 20, 9 << 20, 40 << 20};
  for (int round = 0; round < 2; ++round) {
    for (size_t size : kSizes) {
      size_t count = size > 256 * kKiB ? 3 : 48;
      dirty(size, count);
      void* blocks[48];
      for (size_t i = 0; i < count; ++i) {
        blocks[i] = i % 2 ? calloc(1, size) : calloc(size, 1);
        CHECK(blocks[i] != nullptr);
        check_zero(blocks[i], size);
        memset(blocks[i], 0x5a, size);
      }
      for (size_t i = 0; i < count; ++i) free(blocks[i]);
      // Dirty memory that went back to the kernel and came again.
      malloc_trim(0);
      void* block = calloc(1, size);
      check_zero(block, size);
      free(block);
    }
  }
  // Dirty under another size: what one class wrote, another one gets zeroed.
  for (size_t size : kSizes) {
    dirty(size, size > 256 * kKiB ? 3 : 64);
    for (size_t other : kSizes) {
      if (other > 4 * kMiB) continue;
      void* block = calloc(other, 1);
      check_zero(block, other);
      memset(block, 0xff, other);
      free(block);
    }
  }
  // A huge block that shrank and was dirty in what it gave up.
  for (int round = 0; round < 4; ++round) {
    void* block = malloc(24 * kMiB);
    memset(block, 0x77, 24 * kMiB);
    block = realloc(block, 5 * kMiB);
    void* zeroed = calloc(1, 18 * kMiB);
    check_zero(zeroed, 18 * kMiB);
    free(zeroed);
    free(block);
  }
}

}  // namespace
}  // namespace stress

int main() {
  stress::require_hakmem();
  stress::stepwise(9, 8, 600 * stress::kKiB);
  stress::stepwise(3, 2, 40 * stress::kMiB);
  stress::stepwise(5, 1, 40 * stress::kMiB);
  stress::jumps();
  stress::realloc_of_null_and_same();
  stress::realloc_of_aligned();
  stress::huge_growth();
  stress::calloc_of_dirty_memory();
  return stress::passed("api_realloc_calloc");
}
