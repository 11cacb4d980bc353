// The footprint of a busy class. A program of its own: no other test has used the classes.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/counters.h"

namespace hakmem {
namespace {

// What is freed comes next: a program touches no more blocks than it holds at a time.
TEST(Reuse, StaysWithinWhatIsLive) {
  test::SampleInterval interval(0);
  for (size_t bytes : {size_t{16}, size_t{64}, size_t{600}, size_t{5000}})
    for (size_t live : {size_t{0}, size_t{3}, size_t{100}}) {
      std::set<void*> seen;
      std::deque<void*> blocks;
      for (int i = 0; i < 5000; ++i) {
        blocks.push_back(allocate(bytes));
        seen.insert(blocks.back());
        if (blocks.size() <= live) continue;
        free(blocks.front());
        blocks.pop_front();
      }
      // When they stand in several slabs, a free may claim one, and keeps its block for a later refill.
      uint32_t capacity = kClassShapes[size_class_of(bytes)].capacity;
      EXPECT_LE(seen.size(), live + (live < capacity ? 1 : capacity)) << bytes;
      for (void* block : blocks) free(block);
    }
}

// While a class only grows, each refill carves twice what the last one did, up
// to four times, but of a thread's first slab no more than half of what was carved before;
// one that finds freed blocks sets that back.
TEST(Reuse, CarvesNoFurtherThanItHandsOut) {
  test::SampleInterval interval(0);
  std::vector<void*> blocks{allocate(96)};
  const Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks[0]));
  const uint32_t batch = slab->shape().refill_objects;
  EXPECT_LE(batch * 96u, 4 * kKiB);
  uint32_t carved = batch, most = batch;
  while (blocks.size() < 250) {
    ASSERT_EQ(slab->carved, carved);
    if (blocks.size() == carved) {
      most = std::min(2 * most, 4 * batch);
      carved += std::min(most, std::max(batch, carved / 2));
    }
    blocks.push_back(allocate(96));
    ASSERT_EQ(slab, heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks.back())));
  }
  while (blocks.size() > 1) {
    free(blocks.back());
    blocks.pop_back();
  }
  flush_thread_cache();
  while (slab->carved == carved) {
    blocks.push_back(allocate(96));
    ASSERT_EQ(slab, heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks.back())));
  }
  EXPECT_EQ(blocks.size(), carved + 1);
  EXPECT_EQ(slab->carved, carved + batch);
  for (void* block : blocks) free(block);
}

}  // namespace
}  // namespace hakmem
