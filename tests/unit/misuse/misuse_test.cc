// Misuse ends the process with SIGABRT and one line that says what and where.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/lifetime.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/sampling.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

// free() out of the compiler's sight, which else warns of just what is done here on purpose.
[[gnu::noinline]] void release(void* address) {
  void* volatile hidden = address;
  hakmem::free(hidden);
}

const std::string kDoubleFree = "double free of";
const std::string kForeign = "not a pointer that hakmem allocated:";
const std::string kInvalid = "not the start of an allocated block:";
const std::string kCorrupted = "corrupted free list, a freed block was written to:";

// The whole of what the process prints.
std::string line(const std::string& text, const void* address) {
  std::ostringstream stream;
  stream << "^hakmem: " << text << " 0x" << std::hex << reinterpret_cast<uintptr_t>(address) << "\n$";
  return stream.str();
}

#define EXPECT_MISUSE(statement, text, address) \
  EXPECT_EXIT(statement, testing::KilledBySignal(SIGABRT), line(text, address))

using test::OtherThread;

class MisuseTest : public testing::Test {
 protected:
  MisuseTest() { test::start_process(); }

  // Not sampled: those blocks are freed on another path, which has a test of its own.
  test::SampleInterval interval_{0};
};
using MisuseDeathTest = MisuseTest;

TEST_F(MisuseDeathTest, DoubleFreeAtOnce) {
  for (size_t bytes : {size_t{1}, size_t{16}, size_t{100}, size_t{5000}, size_t{200000}}) {
    void* block = allocate(bytes);
    EXPECT_MISUSE((release(block), release(block)), kDoubleFree, block);
    release(block);
  }
}

TEST_F(MisuseDeathTest, DoubleFreeAfterOthers) {
  std::vector<void*> blocks;
  for (int i = 0; i < 300; ++i) blocks.push_back(allocate(40));
  EXPECT_MISUSE(
      {
        for (void* block : blocks) release(block);
        release(blocks[150]);
      },
      kDoubleFree, blocks[150]);
  for (void* block : blocks) release(block);
}

// To sizes that stay in the block, that move it without a call, and by one, and to none.
TEST_F(MisuseDeathTest, ReallocOfAFreedBlock) {
  for (size_t bytes : {size_t{16}, size_t{100}, size_t{1000}, size_t{5000}, size_t{200000}}) {
    void* block = allocate(bytes);
    for (size_t to : {size_t{0}, size_t{1}, bytes, bytes + 16, bytes * 2, size_t{300000}}) {
      EXPECT_MISUSE((release(block), (void)reallocate(block, to)), kDoubleFree, block);
    }
    release(block);
  }
}

TEST_F(MisuseDeathTest, ReallocOfABlockThatAnotherThreadFreed) {
  void* block = nullptr;
  OtherThread owner_of_it([&] { block = allocate(100); });
  for (size_t to : {size_t{0}, size_t{100}, size_t{200}, size_t{2000}}) {
    EXPECT_MISUSE((release(block), (void)reallocate(block, to)), kDoubleFree, block);
  }
  release(block);
}

TEST_F(MisuseDeathTest, ReallocOfAForeignPointer) {
  char bytes[256];
  for (size_t to : {size_t{1}, size_t{100}, size_t{5000}, 3 * kMiB}) {
    EXPECT_MISUSE((void)reallocate(bytes, to), kForeign, bytes);
  }
}

TEST_F(MisuseDeathTest, DoubleFreeByAThreadThatDoesNotOwnIt) {
  void* block = nullptr;
  void* neighbour = nullptr;
  OtherThread owner_of_it([&] {
    block = allocate(100);
    neighbour = allocate(100);
  });
  EXPECT_MISUSE((release(block), release(block)), kDoubleFree, block);
  EXPECT_MISUSE((release(block), release(neighbour), release(block)), kDoubleFree, block);
  release(block);
  release(neighbour);
}

// Wherever the block waits for its next use, the second free finds it there.
TEST_F(MisuseDeathTest, DoubleFreeOfABlockOnItsSlabsList) {
  void* block = allocate(100);
  void* neighbour = allocate(100);
  EXPECT_MISUSE((release(block), flush_thread_cache(), release(block)), kDoubleFree, block);
  EXPECT_MISUSE((release(block), flush_thread_cache(), release(neighbour), release(block)), kDoubleFree, block);
  release(block);
  release(neighbour);
}

TEST_F(MisuseDeathTest, DoubleFreeOfABlockInAnotherThreadsBin) {
  void* block = allocate(100);
  OtherThread other([&] { release(block); });
  EXPECT_MISUSE(release(block), kDoubleFree, block);
}

TEST_F(MisuseDeathTest, DoubleFreeOfABlockOnARemoteList) {
  std::vector<void*> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(allocate(300));
  OtherThread other([&] {
    for (int i = 0; i < 3; ++i) release(blocks[static_cast<size_t>(i)]);
    flush_thread_cache();
  });
  const Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(blocks[0]));
  ASSERT_EQ(RemoteList::count(slab->remote.load()), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_MISUSE(release(blocks[i]), kDoubleFree, blocks[i]);
  // A live one is not on the list, even where it looks free.
  static_cast<Block*>(blocks[3])->mark_free();
  release(blocks[3]);
  release(blocks[4]);
}

TEST_F(MisuseDeathTest, DoubleFreeOfAPooledBlock) {
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) blocks.push_back(allocate(64));
  OtherThread other([&] {
    for (void* block : blocks) release(block);
  });
  ASSERT_TRUE(heap.pool.has_block(size_class_of(64), static_cast<Block*>(blocks[0])));
  EXPECT_MISUSE(release(blocks[0]), kDoubleFree, blocks[0]);
}

TEST_F(MisuseDeathTest, DoubleFreeOfABlockInWhosePlaceASampleIsDue) {
  if (!kBuild.stats) GTEST_SKIP() << "this build does not sample";
  test::SampleInterval seldom(1 << 30);
  std::vector<void*> blocks;
  for (int i = 0; i < 10; ++i) blocks.push_back(allocate(208));
  test::set_countdown(size_class_of(208), 5);
  for (void* block : blocks) release(block);
  ASSERT_EQ(thread_state.cache->classes[size_class_of(208)].countdown.samples, 1u);
  for (void* block : blocks) EXPECT_MISUSE(release(block), kDoubleFree, block);
}

TEST_F(MisuseDeathTest, DoubleFreeInASlabThatNobodyOwns) {
  // Exhausts a slab, so that its owner turns away from it.
  const uint32_t capacity = kClassShapes[size_class_of(1000)].capacity;
  std::vector<void*> blocks;
  for (uint32_t i = 0; i < 3 * capacity; ++i) blocks.push_back(allocate(1000));
  void* unowned = nullptr;
  for (void* block : blocks)
    if (heap.superslabs.find(reinterpret_cast<uintptr_t>(block))->owner == owner::kUnowned) unowned = block;
  ASSERT_NE(unowned, nullptr);
  EXPECT_MISUSE((release(unowned), release(unowned)), kDoubleFree, unowned);
  EXPECT_MISUSE(release(static_cast<char*>(unowned) + 16), kInvalid, static_cast<char*>(unowned) + 16);
  for (void* block : blocks) release(block);
}

TEST_F(MisuseDeathTest, DoubleFreeOfLargeAndHuge) {
  void* large = allocate(500000);
  EXPECT_MISUSE((release(large), release(large)), kDoubleFree, large);
  void* huge = allocate(4 * kMiB);
  EXPECT_MISUSE((release(huge), release(huge)), kDoubleFree, huge);
  release(large);
  release(huge);
}

TEST_F(MisuseDeathTest, DoubleFreeOfASample) {
  test::SampleInterval every(1);
  if (!kBuild.stats) GTEST_SKIP() << "this build does not sample";
  void* block = test::allocate_sampled(176);
  void* keep = allocate(176);
  EXPECT_MISUSE((release(block), release(block)), kDoubleFree, block);
  EXPECT_MISUSE(release(static_cast<char*>(block) + 16), kInvalid, static_cast<char*>(block) + 16);
  release(block);
  release(keep);
}

// The key is gone by a write, or the other thread has not set it yet: the free map knows.
TEST_F(MisuseDeathTest, DoubleFreeOfASampleThatWasWrittenTo) {
  if (!kBuild.stats) GTEST_SKIP() << "this build does not sample";
  test::SampleInterval every(1);
  auto* block = static_cast<uint64_t*>(test::allocate_sampled(144));
  auto* neighbour = static_cast<uint64_t*>(test::allocate_sampled(144));
  EXPECT_MISUSE((release(block), *block = 1, release(block)), kDoubleFree, block);
  release(neighbour);
  EXPECT_MISUSE((release(block), *block = 1, release(block)), kDoubleFree, block);
  release(block);
}

TEST_F(MisuseDeathTest, AWriteIntoAFreedSampleIsFoundByTheNextSample) {
  if (!kBuild.stats) GTEST_SKIP() << "this build does not sample";
  test::SampleInterval every(1);
  auto* block = static_cast<uint64_t*>(test::allocate_sampled(144));
  EXPECT_MISUSE((release(block), *block = 1, (void)test::allocate_sampled(144)), kCorrupted, block);
  release(block);
}

TEST_F(MisuseDeathTest, ForeignPointers) {
  release(allocate(1));
  alignas(16) static char in_data[64];
  alignas(16) char on_stack[64];
  std::vector<char> other_heap(1000);
  for (char* address : {in_data, on_stack, other_heap.data()}) {
    EXPECT_MISUSE(release(address), kForeign, address);
    EXPECT_MISUSE(reallocate(address, 10), kForeign, address);
    EXPECT_MISUSE(usable_bytes(address), kForeign, address);
  }
  EXPECT_MISUSE(release(reinterpret_cast<void*>(16)), kForeign, reinterpret_cast<void*>(16));
}

TEST_F(MisuseDeathTest, InteriorPointers) {
  char* small = nullptr;
  OtherThread owner_of_it([&] { small = static_cast<char*>(allocate(100)); });
  auto* large = static_cast<char*>(allocate(700000));
  auto* huge = static_cast<char*>(allocate(5 * kMiB));
  for (int offset : {1, 8, 16, 96}) EXPECT_MISUSE(release(small + offset), kInvalid, small + offset);
  EXPECT_MISUSE(release(large + 16), kInvalid, large + 16);
  EXPECT_MISUSE(release(large + kUnitBytes), kInvalid, large + kUnitBytes);
  EXPECT_MISUSE(release(huge + 16), kInvalid, huge + 16);
  EXPECT_MISUSE(release(huge + kPageBytes), kInvalid, huge + kPageBytes);
  // A block that was never carved.
  char* beyond = small + kUnitBytes / 2 / 112 * 112;
  EXPECT_EXIT(release(beyond), testing::KilledBySignal(SIGABRT), "^hakmem: not the start of an allocated block: 0x");
  release(small);
  release(large);
  release(huge);
}

// The first word of a freed block says that it is free, and its next malloc looks there.
TEST_F(MisuseDeathTest, AWriteIntoTheFirstWordIsFoundByTheNextMalloc) {
  if (has(Mitigation::kDelayedReuse)) GTEST_SKIP() << "the next malloc gets another block";
  for (size_t bytes : {size_t{16}, size_t{1000}, size_t{5000}, size_t{40000}}) {
    auto* block = static_cast<char*>(allocate(bytes));
    for (int offset : {0, 3, 7}) {
      EXPECT_MISUSE((release(block), block[offset] = static_cast<char>(~block[offset]), (void)allocate(bytes)),
                    kCorrupted, block);
    }
    release(block);
  }
}

TEST_F(MisuseDeathTest, AWriteAfterFreeIsFoundWhenTheBlockIsUsedAgain) {
  if (has(Mitigation::kDelayedReuse)) GTEST_SKIP() << "the block waits until others of its class were freed";
  auto* block = static_cast<uint64_t*>(allocate(3000));
  EXPECT_MISUSE(
      {
        release(block);
        *block = 0x4141414141414141;
        for (int i = 0; i < 1000; ++i) (void)allocate(3000);
      },
      kCorrupted, block);
  EXPECT_MISUSE(
      {
        release(block);
        memset(block, 0, 16);
        for (int i = 0; i < 1000; ++i) (void)allocate(3000);
      },
      kCorrupted, block);
  release(block);
}

TEST_F(MisuseDeathTest, AWriteAfterARemoteFreeIsFound) {
  EXPECT_EXIT(
      {
        std::vector<uint64_t*> blocks;
        for (int i = 0; i < 50; ++i) blocks.push_back(static_cast<uint64_t*>(allocate(1500)));
        std::thread([&] {
          for (uint64_t* block : blocks) release(block);
        }).join();
        blocks[48][0] ^= 0xFFFF000000;  // in the slab that this thread still refills from
        for (int i = 0; i < 1000; ++i) (void)allocate(1500);
      },
      testing::KilledBySignal(SIGABRT), "^hakmem: corrupted free list, a freed block was written to: 0x[0-9a-f]+\n$");
}

// The key says "free" only by suspicion: a program may hold just these bits.
TEST_F(MisuseTest, AProgramMayWriteTheKeyItself) {
  for (int round = 0; round < 100; ++round) {
    auto* own = static_cast<Block*>(allocate(64));
    own->mark_free();
    release(own);
    Block* remote = nullptr;
    OtherThread owner_of_it([&] { remote = static_cast<Block*>(allocate(64)); });
    remote->mark_free();
    release(remote);
  }
}

TEST_F(MisuseTest, ReallocKeepsABlockThatHoldsTheKey) {
  for (size_t to : {size_t{40}, size_t{64}, size_t{65}, size_t{3000}}) {
    auto* block = static_cast<Block*>(allocate(64));
    block->mark_free();
    block->link = 12345;
    block = static_cast<Block*>(reallocate(block, to));
    ASSERT_NE(block, nullptr);
    EXPECT_TRUE(block->looks_free());
    EXPECT_EQ(block->link, 12345u);
    release(block);
  }
}

TEST_F(MisuseTest, FreeOfNullDoesNothing) {
  errno = 12;
  release(nullptr);
  EXPECT_EQ(usable_bytes(nullptr), 0u);
  EXPECT_EQ(errno, 12);
}

}  // namespace
}  // namespace hakmem
