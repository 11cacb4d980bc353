// Huge allocations side by side: HugeHeap where addresses are not limited.
#include "allocator/page_arena/huge_region.h"

#include <gtest/gtest.h>
#include <string.h>

#include <map>
#include <memory>
#include <vector>

#include "allocator/page_arena/huge_heap.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/fake_memory.h"
#include "tests/unit/support/random.h"

namespace hakmem {
namespace {

using test::Call;
using test::FakeKernel;
using test::FakeMemory;

class HugeRegionTest : public testing::Test {
 protected:
  HugeRegionTest() {
    // Metadata of the heap: everything else that is committed is the region's.
    free(allocate(kPageBytes));
    huge_.purge(0);
    metadata_bytes_ = kernel_.committed_bytes();
  }

  char* allocate(size_t bytes) { return static_cast<char*>(huge_.allocate(bytes, kPageBytes, 0).address); }
  void free(void* block) { EXPECT_TRUE(huge_.free(block, 0)); }
  char* resize(void* block, size_t bytes) { return static_cast<char*>(huge_.resize(block, bytes, 0)); }
  char* resize_or_copy(char* block, size_t old_bytes, size_t bytes) {
    if (char* resized = resize(block, bytes); resized != nullptr) return resized;
    char* copy = allocate(bytes);
    memcpy(copy, block, old_bytes < bytes ? old_bytes : bytes);
    free(block);
    return copy;
  }

  size_t bytes(bool live) const {
    size_t sum = 0;
    huge_.visit([&](uintptr_t, size_t bytes, size_t requested) { sum += (requested > 0) == live ? bytes : 0; });
    return sum;
  }
  uint32_t retained_ranges() const {
    uint32_t count = 0;
    huge_.visit([&](uintptr_t, size_t, size_t requested) { count += requested == 0; });
    return count;
  }
  size_t committed_bytes() const { return kernel_.committed_bytes() - metadata_bytes_; }

  FakeKernel kernel_;
  std::unique_ptr<PageArena<FakeMemory>> arena_ = std::make_unique<PageArena<FakeMemory>>();
  HugeHeap<FakeMemory> huge_{*arena_};
  size_t metadata_bytes_ = 0;
};

TEST_F(HugeRegionTest, StandsSideBySideAndIsJoined) {
  std::vector<char*> blocks;
  constexpr size_t kBytes = kMiB / 2;
  for (int i = 0; i < 3; ++i) blocks.push_back(allocate(kBytes));
  EXPECT_EQ(blocks[1], blocks[0] + kBytes);
  EXPECT_EQ(blocks[2], blocks[1] + kBytes);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
  EXPECT_EQ(committed_bytes(), 3 * kBytes);
  free(blocks[0]);
  free(blocks[2]);
  EXPECT_EQ(retained_ranges(), 2u);
  free(blocks[1]);
  EXPECT_EQ(retained_ranges(), 1u);
  EXPECT_EQ(allocate(3 * kBytes), blocks[0]);
}

TEST_F(HugeRegionTest, SmallPagesUntilTwoMebibytesAreUsed) {
  char* first = allocate(kMiB);
  EXPECT_EQ(committed_bytes(), kMiB);
  char* second = allocate(2 * kMiB + kPageBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second) % kHugePageBytes, 0u);
  EXPECT_EQ(committed_bytes(), 5 * kMiB);  // whole huge pages
  EXPECT_EQ(bytes(true), 3 * kMiB + kPageBytes);
  EXPECT_EQ(bytes(false), 2 * kMiB - kPageBytes);  // what shares its last one
  // The two are not one mapping for the kernel.
  free(first);
  free(second);
  EXPECT_EQ(retained_ranges(), 3u);
  EXPECT_EQ(allocate(2 * kMiB + kPageBytes), second);
}

TEST_F(HugeRegionTest, WhatIsRetainedLastIsLengthened) {
  char* block = allocate(20 * kMiB);
  memset(block, 7, 20 * kMiB);
  free(block);
  auto [lengthened, zeroed] = huge_.allocate(40 * kMiB, kPageBytes, 0);
  EXPECT_EQ(lengthened, block);
  EXPECT_FALSE(zeroed);
  EXPECT_EQ(committed_bytes(), 40 * kMiB);
  free(lengthened);
  huge_.purge(0);
  // Where less than half of it is old, it is all new: calloc need not clear it.
  free(allocate(3 * kMiB));
  EXPECT_TRUE(huge_.allocate(7 * kMiB, kPageBytes, 0).zeroed);
}

TEST_F(HugeRegionTest, ABlockGrowsIntoWhatIsFreeBehindIt) {
  char* block = allocate(8 * kMiB);
  memset(block, 1, 8 * kMiB);
  EXPECT_EQ(resize(block, 9 * kMiB), block);  // the last one of the region
  char* behind = allocate(4 * kMiB);
  EXPECT_EQ(behind, block + 9 * kMiB);
  allocate(kMiB);
  uint64_t remaps = kernel_.calls(Call::kRemap);
  free(behind);
  EXPECT_EQ(resize(block, 12 * kMiB), block);
  EXPECT_EQ(bytes(true), 13 * kMiB);
  EXPECT_EQ(allocate(kMiB), block + 12 * kMiB);  // the rest
  EXPECT_EQ(kernel_.calls(Call::kRemap), remaps);
  char* moved = resize(block, 16 * kMiB);  // nothing is free there
  ASSERT_NE(moved, nullptr);
  EXPECT_EQ(kernel_.calls(Call::kRemap), remaps + 1);
  EXPECT_EQ(moved[8 * kMiB - 1], 1);
  EXPECT_EQ(huge_.usable_bytes(moved), 16 * kMiB);
  EXPECT_FALSE(moved != block && huge_.free(block, 0));
  free(moved);
}

TEST_F(HugeRegionTest, ABlockIsNotMovedByTheKernelWhereItCanBeCopiedToRetainedPages) {
  char* block = allocate(3 * kMiB);
  char* large = allocate(9 * kMiB);
  allocate(kMiB);
  char* retained = allocate(10 * kMiB);
  allocate(kMiB);
  EXPECT_NE(block = resize(block, 4 * kMiB), nullptr);  // nothing is retained yet
  free(retained);
  size_t live = bytes(true);
  EXPECT_EQ(resize(block, 5 * kMiB), nullptr);
  EXPECT_EQ(huge_.usable_bytes(block), 4 * kMiB);
  EXPECT_EQ(bytes(true), live);
  uint64_t remaps = kernel_.calls(Call::kRemap);
  EXPECT_NE(huge_.resize(block, 5 * kMiB, 0, HugeHeap<FakeMemory>::Growth::kNotByCopy), nullptr);
  EXPECT_EQ(kernel_.calls(Call::kRemap), remaps + 1);
  EXPECT_NE(resize(large, 10 * kMiB), nullptr);  // more to copy than it is worth
  EXPECT_EQ(kernel_.calls(Call::kRemap), remaps + 2);
  char* other = allocate(3 * kMiB);
  allocate(kMiB);
  EXPECT_NE(resize(other, 11 * kMiB), nullptr);  // more than is retained
}

TEST_F(HugeRegionTest, WhatAnAllocationHasOverIsNotGivenBackWhenItIsResized) {
  free(allocate(9 * kMiB));
  char* block = allocate(8 * kMiB + kMiB / 2);  // all 9 MiB
  EXPECT_EQ(huge_.usable_bytes(block), 9 * kMiB);
  EXPECT_EQ(resize(block, 8 * kMiB + kPageBytes), block);
  EXPECT_EQ(huge_.usable_bytes(block), 9 * kMiB);
  EXPECT_EQ(resize(block, 4 * kMiB), block);
  EXPECT_EQ(huge_.usable_bytes(block), 4 * kMiB);
}

TEST_F(HugeRegionTest, WhatABlockNoLongerNeedsIsRetained) {
  char* block = allocate(9 * kMiB);
  char* behind = allocate(2 * kMiB);
  const size_t committed = committed_bytes();
  const uint64_t remaps = kernel_.calls(Call::kRemap);
  free(behind);
  EXPECT_EQ(resize(block, 4 * kMiB), block);
  EXPECT_EQ(bytes(true), 4 * kMiB);
  EXPECT_EQ(committed_bytes(), committed);
  EXPECT_EQ(allocate(7 * kMiB), block + 4 * kMiB);  // one range with what was free behind it
  EXPECT_EQ(kernel_.calls(Call::kRemap), remaps);
}

TEST_F(HugeRegionTest, ABlockGrowsIntoAllThatIsFreeBehindIt) {
  char* block = allocate(8 * kMiB);
  char* behind = allocate(4 * kMiB);
  allocate(kMiB);
  free(behind);
  EXPECT_EQ(resize(block, 12 * kMiB), block);
  EXPECT_EQ(retained_ranges(), 1u);  // what shares the last huge page
  free(block);
  EXPECT_EQ(allocate(12 * kMiB), block);
}

// A huge page that is given back in part is small pages from then on, for the live block
// beside it as well.
TEST_F(HugeRegionTest, WholeHugePagesGoBackFirst) {
  constexpr size_t kOver = 8 * kPageBytes;
  char* below = allocate(3 * kMiB + kOver);
  char* block = allocate(9 * kMiB);
  char* above = allocate(kMiB);
  const size_t committed = committed_bytes();
  free(block);
  const size_t retained = bytes(false);
  huge_.decay(0);
  EXPECT_EQ(committed_bytes(), committed - 8 * kMiB);
  EXPECT_EQ(bytes(false), retained - 8 * kMiB);
  EXPECT_EQ(retained_ranges(), 3u);  // before it and behind it, and what shares the last one of the region
  // Both serve, alone and with their neighbours.
  EXPECT_EQ(allocate(kMiB - kOver), block);
  free(above);
  EXPECT_EQ(allocate(kMiB + kOver), block + 9 * kMiB - kOver);
  free(below);
  huge_.decay(0);
  EXPECT_EQ(committed_bytes(), committed - 10 * kMiB);
  // Where no whole one is left, the rest follows.
  huge_.decay(0);
  EXPECT_EQ(committed_bytes(), committed - 11 * kMiB - kOver);
}

TEST_F(HugeRegionTest, WhatIsBehindHugePagesGoesWithThemWhereTooMuchIsRetained) {
  const size_t held = huge_.hold_back(0);
  std::vector<char*> retained;
  std::vector<char*> kept;
  for (uint32_t i = 0; i < kMaxRetained; ++i) {
    retained.push_back(allocate(kMiB));
    kept.push_back(allocate(kMiB));
  }
  for (char* block : retained) free(block);
  std::vector<char*> large;  // one range when they are free
  for (size_t sum = 0; sum < held; sum += 31 * kMiB) large.push_back(allocate(31 * kMiB + 8 * kPageBytes));
  kept.push_back(allocate(kMiB));
  for (char* block : large) {
    free(block);
    ASSERT_LE(bytes(false), huge_.hold_back(bytes(true)) + kHugePageBytes);
    ASSERT_EQ(committed_bytes(), bytes(true) + bytes(false));
  }
  for (char* block : kept) free(block);
  huge_.purge(0);
  EXPECT_EQ(committed_bytes(), 0u);
}

TEST_F(HugeRegionTest, PurgeGivesBackTheRegion) {
  size_t reserved = kernel_.reserved_bytes();
  char* kept = allocate(kMiB);
  free(allocate(30 * kMiB));
  EXPECT_GE(kernel_.reserved_bytes(), reserved + HugeRegion<FakeMemory>::kBytes - kHugePageBytes);
  huge_.purge(0);
  EXPECT_EQ(committed_bytes(), kMiB);
  EXPECT_LT(kernel_.reserved_bytes(), reserved + 2 * kHugePageBytes);
  char* next = allocate(kMiB);
  EXPECT_TRUE(next > kept + kMiB || next < kept);
  kept[0] = next[0] = 1;
  free(kept);
  free(next);
}

TEST_F(HugeRegionTest, VeryLargeAndAlignedBlocksAreMappingsOfTheirOwn) {
  size_t most = HugeRegion<FakeMemory>::kMaxRangeBytes;
  free(allocate(most));
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
  huge_.purge(0);
  char* large = allocate(most + kPageBytes);
  EXPECT_EQ(kernel_.mapped_bytes(), most + kPageBytes);
  void* aligned = huge_.allocate(3 * kMiB, 16 * kMiB, 0).address;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % (16 * kMiB), 0u);
  EXPECT_EQ(kernel_.mapped_bytes(), most + kPageBytes + 3 * kMiB);
  free(aligned);
  free(large);
}

TEST_F(HugeRegionTest, TheNextRegionFollowsAFullOne) {
  std::vector<char*> blocks;
  for (int i = 0; i < 20; ++i) blocks.push_back(allocate(60 * kMiB));
  std::map<char*, int> distinct;
  for (char* block : blocks) {
    ASSERT_NE(block, nullptr);
    block[0] = block[60 * kMiB - 1] = 1;
    ++distinct[block];
  }
  EXPECT_EQ(distinct.size(), 20u);
  EXPECT_EQ(kernel_.mapped_bytes(), 0u);
  for (char* block : blocks) free(block);
  huge_.purge(0);
  EXPECT_EQ(committed_bytes(), 0u);
}

TEST_F(HugeRegionTest, WithoutARegionThereAreMappings) {
  for (Call call : {Call::kReserve, Call::kCommit}) {
    kernel_.fail_always(call);
    char* block = allocate(5 * kMiB);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(kernel_.mapped_bytes(), 5 * kMiB);
    free(block);
    huge_.purge(0);
    kernel_.recover();
  }
  // A block that cannot grow where it stands is moved.
  char* block = allocate(5 * kMiB);
  block[0] = 7;
  kernel_.fail_always(Call::kCommit);
  char* grown = resize(block, 7 * kMiB);
  ASSERT_NE(grown, nullptr);
  EXPECT_EQ(grown[0], 7);
  kernel_.recover();
}

TEST_F(HugeRegionTest, NobodyGetsTheSamePages) {
  test::Random random(3);
  struct Block {
    char* address;
    size_t bytes;
    char tag;
  };
  std::vector<Block> blocks;
  auto mark = [](Block& block, char tag) {
    block.tag = block.address[0] = block.address[block.bytes - 1] = tag;
    for (size_t at = 0; at < block.bytes; at += kMiB) block.address[at] = tag;
  };
  auto check = [](const Block& block) {
    bool is_whole = block.address[0] == block.tag && block.address[block.bytes - 1] == block.tag;
    for (size_t at = 0; at < block.bytes; at += kMiB) is_whole &= block.address[at] == block.tag;
    return is_whole;
  };
  auto draw = [&] { return (size_t{1} + random.below(256)) * 16 * kPageBytes; };
  for (uint32_t step = 0; step < test::rounds(1200); ++step) {
    if (step % 200 == 199) huge_.decay(0);
    if (blocks.size() < 24) {
      Block block{nullptr, draw(), 0};
      block.address = allocate(block.bytes);
      ASSERT_NE(block.address, nullptr);
      mark(block, static_cast<char>(step));
      blocks.push_back(block);
      continue;
    }
    size_t index = random.below(24);
    Block& block = blocks[index];
    ASSERT_TRUE(check(block)) << "step " << step;
    if (random.below(3) == 0) {
      size_t kept = block.bytes;
      block.bytes = draw();
      block.address = resize_or_copy(block.address, kept, block.bytes);
      ASSERT_NE(block.address, nullptr);
      ASSERT_EQ(block.address[0], block.tag);
      ASSERT_TRUE(kept > block.bytes || block.address[kept - 1] == block.tag);
      mark(block, static_cast<char>(step));
    } else {
      free(block.address);
      blocks[index] = blocks.back();
      blocks.pop_back();
    }
    ASSERT_EQ(kernel_.mapped_bytes() + committed_bytes(), bytes(true) + bytes(false));
  }
  for (Block& block : blocks) {
    EXPECT_TRUE(check(block));
    free(block.address);
  }
  huge_.purge(0);
  EXPECT_EQ(kernel_.mapped_bytes() + committed_bytes(), 0u);
}

}  // namespace
}  // namespace hakmem
