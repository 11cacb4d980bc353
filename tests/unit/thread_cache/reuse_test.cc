// The footprint of a busy class. A program of its own: no other test has used the classes.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "tests/unit/support/counters.h"

namespace hakmem {
namespace {

// Working in a small set touches a small set: blocks are used again at once.
TEST(Reuse, StaysWithinABatchOrTwo) {
  test::SampleInterval interval(0);
  for (size_t bytes : {size_t{16}, size_t{64}, size_t{700}, size_t{5000}}) {
    std::set<void*> seen;
    for (int i = 0; i < 5000; ++i) {
      void* block = allocate(bytes);
      seen.insert(block);
      free(block);
    }
    EXPECT_LE(seen.size(), 2u * kClassShapes[size_class_of(bytes)].refill_objects) << bytes;
  }
}

TEST(Reuse, CarvesNoFurtherThanItHandsOut) {
  test::SampleInterval interval(0);
  std::vector<void*> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(allocate(160));
  const Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks[0]));
  ASSERT_EQ(slab, heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks[99])));
  uint32_t batch = slab->shape().refill_objects;
  EXPECT_EQ(slab->carved, (100 + batch - 1) / batch * batch);
  EXPECT_LE(batch * 160u, 4 * kKiB);
  for (void* block : blocks) free(block);
}

}  // namespace
}  // namespace hakmem
