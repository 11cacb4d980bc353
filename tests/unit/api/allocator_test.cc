// The functions of the malloc family, call by call.
#include "allocator/api/allocator.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "tests/unit/support/accounts.h"
#include "tests/unit/support/shadow_heap.h"

namespace hakmem {
namespace {

constexpr size_t kTooMuch = size_t{PTRDIFF_MAX};

TEST(Allocator, RequestsThatCannotBeGrantedAreENOMEM) {
  auto expect_refused = [](auto request) {
    errno = 0;
    EXPECT_EQ(request(), nullptr);
    EXPECT_EQ(errno, ENOMEM);
  };
  for (size_t bytes : {kTooMuch - 4096, kTooMuch, kTooMuch + 1, SIZE_MAX - 15, SIZE_MAX}) {
    expect_refused([&] { return allocate(bytes); });
    expect_refused([&] { return allocate_zeroed(1, bytes); });
    expect_refused([&] { return allocate_zeroed(bytes, 1); });
    expect_refused([&] { return reallocate(nullptr, bytes); });
    expect_refused([&] { return allocate_aligned(32, bytes); });
    expect_refused([&] { return allocate_aligned(kMiB, bytes); });
  }
  expect_refused([] { return allocate_zeroed(size_t{1} << 32, size_t{1} << 32); });
  expect_refused([] { return allocate_zeroed(SIZE_MAX, 2); });
  expect_refused([] { return allocate_aligned(size_t{1} << 62, 1); });
  expect_refused([] { return allocate_aligned(size_t{1} << 63, SIZE_MAX); });
  test::expect_books_balance({});
}

TEST(Allocator, ARefusedReallocLeavesTheBlock) {
  for (size_t bytes : {size_t{100}, size_t{100000}, size_t{600000}, 3 * kMiB}) {
    auto* block = static_cast<unsigned char*>(allocate(bytes));
    test::fill(block, bytes, 5);
    for (size_t too_much : {kTooMuch, SIZE_MAX}) {
      errno = 0;
      EXPECT_EQ(reallocate(block, too_much), nullptr);
      EXPECT_EQ(errno, ENOMEM);
      EXPECT_TRUE(test::has_content(block, bytes, bytes, 5));
    }
    free(block);
  }
  test::expect_books_balance({});
}

TEST(Allocator, ZeroBytesAreABlockOfItsOwn) {
  std::vector<void*> blocks{allocate(0),
                            allocate(0),
                            allocate_zeroed(0, 5),
                            allocate_zeroed(5, 0),
                            allocate_aligned(256, 0),
                            allocate_aligned(4 * kMiB, 0),
                            reallocate(nullptr, 0)};
  for (size_t i = 0; i < blocks.size(); ++i) {
    ASSERT_NE(blocks[i], nullptr);
    EXPECT_GE(usable_bytes(blocks[i]), 1u);
    for (size_t j = 0; j < i; ++j) EXPECT_NE(blocks[i], blocks[j]);
  }
  EXPECT_EQ(reallocate(blocks[0], 0), nullptr);  // frees, as glibc does
  for (size_t i = 1; i < blocks.size(); ++i) free(blocks[i]);
  test::expect_books_balance({});
}

TEST(Allocator, CallocClearsWhatWasUsedBefore) {
  for (size_t bytes : {size_t{16}, size_t{100}, size_t{4096}, size_t{200000}, size_t{300000}, kMiB, 2 * kMiB, 9 * kMiB})
    for (bool purged : {false, true}) {
      for (int round = 0; round < 4; ++round) {
        void* dirty = allocate(bytes);
        memset(dirty, 0xFF, bytes);
        free(dirty);
        if (purged) purge_all();
        void* clean = allocate_zeroed(bytes / 4, 4);
        EXPECT_TRUE(test::is_zero(clean, bytes / 4 * 4)) << bytes;
        memset(clean, 0xFF, bytes / 4 * 4);
        free(clean);
      }
    }
}

TEST(Allocator, ReallocKeepsTheContentAcrossAllKinds) {
  // Each pair of kinds: table, above the table, slab of several units, large, huge.
  std::vector<size_t> sizes{1, 17, 1000, 1025, 50000, 262144, 262145, 700000, kMiB, kMiB + 1, 3 * kMiB, 20 * kMiB};
  for (size_t from : sizes)
    for (size_t to : sizes) {
      auto* block = static_cast<unsigned char*>(allocate(from));
      test::fill(block, from, from ^ to);
      block = static_cast<unsigned char*>(reallocate(block, to));
      ASSERT_NE(block, nullptr);
      EXPECT_GE(usable_bytes(block), to);
      EXPECT_TRUE(test::has_content(block, std::min(from, to), from, from ^ to)) << from << " to " << to;
      test::fill(block, to, 1);
      free(block);
    }
  test::expect_books_balance({});
}

TEST(Allocator, ReallocGivesMemoryBackWhenItShrinks) {
  for (size_t from : {size_t{200000}, size_t{900000}, 16 * kMiB}) {
    void* block = reallocate(allocate(from), 100);
    EXPECT_LE(usable_bytes(block), 256u);
    free(block);
  }
}

TEST(Allocator, AlignmentsUpToManyMiB) {
  std::vector<void*> blocks;
  for (size_t alignment = 1; alignment <= 64 * kMiB; alignment *= 2)
    for (size_t bytes : {size_t{1}, size_t{100}, size_t{5000}, size_t{70000}, size_t{500000}, 2 * kMiB}) {
      void* block = allocate_aligned(alignment, bytes);
      ASSERT_NE(block, nullptr);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % alignment, 0u) << alignment << " " << bytes;
      EXPECT_GE(usable_bytes(block), bytes);
      static_cast<char*>(block)[bytes - 1] = 1;
      blocks.push_back(block);
    }
  for (void* block : blocks) free(block);
  test::expect_books_balance({});
}

TEST(Allocator, HugeMemoryIsGivenBackToTheKernel) {
  void* block = allocate(200 * kMiB);
  memset(block, 1, kMiB);
  EXPECT_EQ(heap_totals().huge_bytes, 200 * kMiB);
  free(block);
  EXPECT_LT(heap_totals().retained_bytes, 64 * kMiB);
}

}  // namespace
}  // namespace hakmem
