#include "allocator/superslab/size_class.h"

#include <gtest/gtest.h>

#include "allocator/superslab/slab.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {
namespace {

TEST(SizeClass, ClassesGrowAndAreMultiplesOf16) {
  size_t previous = 0;
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    size_t bytes = class_bytes(size_class);
    EXPECT_GT(bytes, previous);
    EXPECT_EQ(bytes % kBlockAlignment, 0u);
    EXPECT_EQ(kClassShapes[size_class].block_bytes, bytes);
    previous = bytes;
  }
  EXPECT_EQ(previous, kMaxClassBytes);
}

TEST(SizeClass, EverySizeGetsTheSmallestClassThatFits) {
  uint32_t smallest = 0;
  for (size_t bytes = 0; bytes <= kMaxClassBytes; ++bytes) {
    while (class_bytes(smallest) < bytes) ++smallest;
    ASSERT_EQ(size_class_of(bytes), smallest) << bytes;
  }
}

TEST(SizeClass, RoundingIsBounded) {
  for (size_t bytes = 1; bytes <= kMaxClassBytes; ++bytes) {
    size_t waste = class_bytes(size_class_of(bytes)) - bytes;
    if (bytes <= 128) {
      ASSERT_LT(waste, 16u) << bytes;
    } else {
      ASSERT_LE(waste * 8, bytes) << bytes;  // 12.5 %
    }
  }
}

TEST(SizeClass, ShapesWasteLittle) {
  for (const ClassShape& shape : kClassShapes) {
    size_t span = shape.units * kUnitBytes;
    EXPECT_LE(size_t{shape.capacity} * shape.block_bytes, span_bytes(shape.units));
    size_t rest = span_bytes(shape.units) - size_t{shape.capacity} * shape.block_bytes;
    EXPECT_LT(rest, shape.block_bytes);
    bool is_tight = kGuardBytes == 0 && shape.block_bytes <= 32 * kKiB;
    EXPECT_LE((rest + kGuardBytes) * (is_tight ? 12 : 8), span) << shape.block_bytes;
    EXPECT_LE(span, (kGuardBytes == 0 ? 256 : 416) * kKiB) << "a slab that a class seldom needs is small";
    EXPECT_GE(shape.capacity, shape.block_bytes <= 32 * kKiB ? 4u : 1u);
    EXPECT_GE(shape.refill_objects, 1u);
    EXPECT_LE(shape.refill_objects, kRefillObjects);
    EXPECT_TRUE(shape.refill_objects == 1 || size_t{shape.refill_objects} * shape.block_bytes <= kRefillBytes);
    EXPECT_GE(shape.wake_threshold, 1u);
    EXPECT_LE(shape.wake_threshold, shape.capacity);
  }
}

// The division by multiplication must be exact at every address of every slab:
// at the first and last byte of each block and at each multiple of 16.
TEST(SizeClass, ReciprocalsAreExact) {
  for (const ClassShape& shape : kClassShapes) {
    size_t span = shape.units * kUnitBytes;
    auto index_of = [&](uint64_t offset) { return offset * shape.reciprocal >> kReciprocalShift; };
    for (size_t offset = 0; offset < span; offset += 16)
      ASSERT_EQ(index_of(offset), offset / shape.block_bytes) << shape.block_bytes << " " << offset;
    for (uint32_t block = 0; block < shape.capacity; ++block) {
      size_t last = size_t{block + 1} * shape.block_bytes - 1;
      ASSERT_EQ(index_of(last), block) << shape.block_bytes;
    }
  }
}

TEST(SizeClass, BlockStartsAreToldFromInteriors) {
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    Slab slab{};
    slab.size_class = size_class;
    slab.start = uintptr_t{1} << 40;
    const ClassShape& shape = slab.shape();
    slab.carved = shape.capacity - 1;
    for (uint32_t block = 0; block < shape.capacity; ++block) {
      uintptr_t address = slab.start + size_t{block} * shape.block_bytes;
      ASSERT_EQ(slab.is_block_start(address), block < slab.carved) << "the last one is not carved";
      for (size_t inside : {size_t{1}, size_t{8}, size_t{15}, size_t{shape.block_bytes} - 1})
        ASSERT_FALSE(slab.is_block_start(address + inside));
      if (shape.block_bytes > 16) {
        ASSERT_FALSE(slab.is_block_start(address + 16));
      }
    }
  }
}

// All pairs: the class is the smallest that fits and whose blocks are aligned.
TEST(SizeClass, AlignedClassesWasteNothing) {
  for (size_t alignment = 1; alignment <= kUnitBytes; alignment *= 2) {
    uint32_t smallest = 0;
    for (size_t bytes = 0; bytes <= kMaxClassBytes; ++bytes) {
      while (class_bytes(smallest) < bytes || class_bytes(smallest) % alignment != 0) ++smallest;
      ASSERT_EQ(aligned_class_of(bytes, alignment), smallest) << bytes << " " << alignment;
    }
  }
  EXPECT_EQ(aligned_class_of(16, kUnitBytes * 2), kSizeClassCount);
  EXPECT_EQ(aligned_class_of(kMaxClassBytes + 1, 16), kSizeClassCount);
}

}  // namespace
}  // namespace hakmem
