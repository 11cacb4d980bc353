// The functions of the malloc family, call by call.
#include "allocator/api/allocator.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "allocator/metrics/heap_view.h"
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

// A block amid others of its class that are full of a pattern.
struct BlockAmidOthers {
  explicit BlockAmidOthers(size_t bytes) : usable(0) {
    for (void*& block : blocks) {
      block = allocate(bytes);
      usable = usable_bytes(block);
      memset(block, 0xA5, usable);
    }
  }
  void* middle() { return blocks[8]; }
  // But for the one in the middle, which the test has taken.
  bool others_are_whole() const {
    for (const void* block : blocks) {
      if (block == blocks[8]) continue;
      const auto* bytes = static_cast<const unsigned char*>(block);
      if (!std::all_of(bytes, bytes + usable, [](unsigned char byte) { return byte == 0xA5; })) return false;
    }
    return true;
  }
  ~BlockAmidOthers() {
    for (void* block : blocks)
      if (block != blocks[8]) free(block);
  }
  BlockAmidOthers(const BlockAmidOthers&) = delete;
  BlockAmidOthers& operator=(const BlockAmidOthers&) = delete;

  void* blocks[17];
  size_t usable;
};

TEST(Allocator, CallocClearsTheBlockAndNothingBesideIt) {
  for (size_t bytes = 0; bytes <= 1100; ++bytes) {
    BlockAmidOthers neighbours(bytes);
    free(neighbours.middle());
    void* clean = bytes % 2 == 0 ? allocate_zeroed(bytes / 2, 2) : allocate_zeroed(1, bytes);
    ASSERT_NE(clean, nullptr);
    ASSERT_TRUE(test::is_zero(clean, bytes)) << bytes;
    ASSERT_TRUE(neighbours.others_are_whole()) << bytes;
    free(clean);
  }
  test::expect_books_balance({});
}

TEST(Allocator, ReallocMovesTheBlockAndNothingBesideIt) {
  for (size_t from = 1; from <= 300; ++from)
    for (size_t to : {from + 1, from + 16, from * 2, from * 5, (from + 3) / 4}) {
      BlockAmidOthers neighbours(from);
      BlockAmidOthers neighbours_there(to);
      free(neighbours_there.middle());
      auto* block = static_cast<unsigned char*>(neighbours.middle());
      test::fill(block, from, from ^ to);
      block = static_cast<unsigned char*>(reallocate(block, to));
      ASSERT_NE(block, nullptr);
      ASSERT_TRUE(test::has_content(block, std::min(from, to), from, from ^ to)) << from << " to " << to;
      ASSERT_TRUE(neighbours.others_are_whole() && neighbours_there.others_are_whole()) << from << " to " << to;
      free(block);
    }
  test::expect_books_balance({});
}

TEST(Allocator, ReallocStaysInABlockThatIsHalfUsed) {
  for (size_t bytes : {size_t{16}, size_t{48}, size_t{208}, size_t{1024}, size_t{4608}, size_t{81920}}) {
    void* block = allocate(bytes);
    size_t usable = usable_bytes(block);
    size_t least = usable / 2 - 7;
    for (size_t to = usable; to >= least; --to) ASSERT_EQ(reallocate(block, to), block) << usable << " to " << to;
    void* smaller = reallocate(block, least - 1);  // null: the smallest blocks stay for all but 0
    EXPECT_LT(usable_bytes(smaller), usable);
    free(smaller);
  }
  test::expect_books_balance({});
}

TEST(Allocator, ReallocThatGrowsByLittleMakesRoomForAQuarter) {
  for (size_t bytes : {size_t{1024}, size_t{4096}, size_t{100000}}) {
    void* block = allocate(bytes);
    size_t usable = usable_bytes(block);
    block = reallocate(block, usable + 1);
    size_t room = usable_bytes(block);
    EXPECT_GE(room, usable + usable / 4);
    EXPECT_EQ(reallocate(block, room), block);
    free(block);
  }
  void* doubled = reallocate(allocate(4096), 8192);  // grows by much: no more than asked for
  EXPECT_EQ(usable_bytes(doubled), 8192u);
  free(doubled);
  test::expect_books_balance({});
}

TEST(Allocator, ReallocGrowsALargeBlockWhereItStands) {
  std::vector<void*> others;
  unsigned char* block = nullptr;
  void* grown = nullptr;
  do {
    ASSERT_LT(others.size(), 100u) << "no block has grown where it stands";
    block = static_cast<unsigned char*>(allocate(300 * kKiB));
    test::fill(block, 300 * kKiB, 7);
    grown = reallocate(block, 600 * kKiB);
    EXPECT_GE(usable_bytes(grown), 600 * kKiB);
    EXPECT_TRUE(test::has_content(static_cast<unsigned char*>(grown), 300 * kKiB, 300 * kKiB, 7));
    // In a hole that another test has left: it is filled, so that the next stands where nothing is behind it.
    if (grown != block) others.insert(others.end(), {grown, allocate(300 * kKiB)});
  } while (grown != block);
  free(block);
  for (void* other : others) free(other);
  test::expect_books_balance({});
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

TEST(Allocator, AlignmentOf64KiBTakesNoMappingOfItsOwn) {
  uint64_t huge = heap_totals().huge_allocations;
  std::vector<void*> blocks;
  for (int round = 0; round < 3; ++round) {
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{5000}, size_t{65536}, size_t{70000}, kMaxLargeBytes})
      for (int i = 0; i < 20; ++i) {
        void* block = allocate_aligned(64 * kKiB, bytes);
        ASSERT_NE(block, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % (64 * kKiB), 0u) << bytes;
        EXPECT_GE(usable_bytes(block), bytes);
        test::fill(static_cast<unsigned char*>(block), bytes, static_cast<uint32_t>(blocks.size()));
        blocks.push_back(block);
        if (i % 3 == 0) {
          size_t last = blocks.size() - 1;
          blocks[last] = reallocate(block, 2 * bytes + 1);
          EXPECT_TRUE(test::has_content(static_cast<unsigned char*>(blocks[last]), bytes, bytes, last)) << bytes;
        }
      }
    std::vector<void*> sorted = blocks;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end());
    for (void* block : blocks) free(block);
    blocks.clear();
  }
  void* block = allocate_aligned(64 * kKiB, kMaxLargeBytes);
  EXPECT_EQ(heap_totals().huge_allocations, huge);
  free(block);
  test::expect_books_balance({});
}

// Whichever way the request goes, the block is of the class that wastes least.
TEST(Allocator, AlignedBlocksWasteNothing) {
  for (size_t alignment = 1; alignment <= 4096; alignment *= 2)
    for (size_t bytes = 0; bytes <= 2100; ++bytes) {
      void* block = allocate_aligned(alignment, bytes);
      ASSERT_NE(block, nullptr);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(block) % alignment, 0u) << bytes << " " << alignment;
      ASSERT_EQ(usable_bytes(block), class_bytes(aligned_class_of(bytes, alignment))) << bytes << " " << alignment;
      free(block);
    }
  test::expect_books_balance({});
}

TEST(Allocator, HugeMemoryIsGivenBackToTheKernel) {
  purge_all();  // superslabs have a hold-back of their own
  void* block = allocate(400 * kMiB);
  memset(block, 1, kMiB);
  EXPECT_EQ(heap_totals().huge_bytes, 400 * kMiB);
  free(block);
  // 128 MiB, and more once other tests in this process took purged memory again.
  size_t hold_back = metrics::heap_view.huge_hold_back(0);
  EXPECT_LE(heap_totals().retained_bytes, hold_back);
  EXPECT_LE(hold_back, (128 + 400 / 2 + 16) * kMiB);
}

}  // namespace
}  // namespace hakmem
