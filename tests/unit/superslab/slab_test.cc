#include "allocator/superslab/slab.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "allocator/base/message.h"

namespace hakmem {
namespace {

// A slab of one unit, with memory of its own.
class SlabTest : public testing::Test {
 protected:
  SlabTest() {
    slab_.start = reinterpret_cast<uintptr_t>(memory_);
    slab_.free_map = free_map_;
    slab_.units = 1;
    slab_.state = SlabState::Current;
    slab_.size_class = size_class_of(1000);
    slab_.set_countdown(kNoThreshold);
  }

  Block* block(uint32_t index) {
    return reinterpret_cast<Block*>(slab_.start + size_t{index} * slab_.shape().block_bytes);
  }
  // Carves `carved` blocks and puts the first `listed` of them into the free map.
  void fill(uint32_t carved, uint32_t listed) {
    slab_.carved = carved;
    slab_.used = carved - listed;
    memset(free_map_, 0, sizeof(free_map_));
    slab_.free_word = 0;
    for (uint32_t i = 0; i < listed; ++i) slab_.put_free(block(i));
  }

  alignas(2 * kMiB) static inline char memory_[kUnitBytes];
  uint64_t free_map_[kFreeMapWords]{};
  Slab slab_{};
};

// Every block of every class has its bit, and comes out again in the order of addresses.
TEST_F(SlabTest, TheFreeMapGivesBackWhatItWasGiven) {
  for (uint32_t size_class = 0; size_class < kSizeClassCount; ++size_class) {
    slab_.size_class = size_class;
    uint32_t capacity = slab_.shape().capacity;
    fill(capacity, 0);
    for (uint32_t i = capacity; i-- > 0;) {
      EXPECT_FALSE(slab_.has_free(block(i)));
      slab_.put_free(block(i));
      EXPECT_TRUE(slab_.has_free(block(i)));
    }
    EXPECT_EQ(slab_.count_free(), capacity);
    std::vector<Block*> taken(capacity + 1);
    uint32_t count = slab_.take_free(taken.data(), (capacity + 1) / 2);
    EXPECT_EQ(count, (capacity + 1) / 2);
    count += slab_.take_free(taken.data() + count, capacity);
    ASSERT_EQ(count, capacity);
    for (uint32_t i = 0; i < capacity; ++i) ASSERT_EQ(taken[i], block(i)) << size_class;
    EXPECT_EQ(slab_.take_free(taken.data(), 1), 0u);
    EXPECT_EQ(slab_.count_free(), 0u);
  }
}

TEST_F(SlabTest, TheLowestFreeBlocksAreTakenFirst) {
  slab_.size_class = size_class_of(16);
  fill(2000, 0);
  Block* taken[3];
  for (uint32_t i : {1999u, 700u, 64u}) slab_.put_free(block(i));
  EXPECT_EQ(slab_.take_free(taken, 1), 1u);
  EXPECT_EQ(taken[0], block(64));
  slab_.put_free(block(63));
  EXPECT_EQ(slab_.take_free(taken, 3), 3u);
  EXPECT_EQ(taken[0], block(63));
  EXPECT_EQ(taken[1], block(700));
  EXPECT_EQ(taken[2], block(1999));
  slab_.put_free(block(0));
  slab_.clear_free_map();
  EXPECT_EQ(slab_.take_free(taken, 3), 0u);
}

TEST_F(SlabTest, LinksLeadFromBlockToBlock) {
  Block* first = block(0);
  Block* second = block(7);
  first->set_next(second);
  EXPECT_TRUE(Block::is_valid(first->distance()));
  EXPECT_EQ(first->at(first->distance()), second);
  EXPECT_EQ(first->next(), second);
  EXPECT_FALSE(first->is_last());
  second->set_next(nullptr);
  EXPECT_FALSE(Block::is_valid(second->distance()));
  EXPECT_TRUE(second->is_last());
  EXPECT_EQ(second->next(), nullptr);
  EXPECT_NE(first->link, reinterpret_cast<uintptr_t>(second)) << "the link stands in the clear";
}

TEST_F(SlabTest, TheKeySaysFree) {
  Block* one = block(1);
  one->clear_key();
  EXPECT_FALSE(one->looks_free());
  one->mark_free();
  EXPECT_TRUE(one->looks_free());
  EXPECT_NE(one->key, 0u);
  one->clear_key();
  EXPECT_FALSE(one->looks_free());
}

TEST_F(SlabTest, AnOverwrittenLinkIsNotFollowed) {
  Block* one = block(3);
  for (uint64_t value : {uint64_t{0}, uint64_t{0x4141414141414141}, UINT64_MAX, reinterpret_cast<uint64_t>(one)}) {
    one->link = value;
    EXPECT_EQ(one->next(), nullptr);
    EXPECT_FALSE(one->is_last());
  }
}

TEST_F(SlabTest, OnlyALiveBlockComesBack) {
  fill(20, 0);
  auto beside = [this](uint32_t index, intptr_t bytes) {
    return reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(block(index)) + static_cast<uintptr_t>(bytes));
  };
  EXPECT_TRUE(slab_.try_put_free(block(5), slab_.shape()));
  EXPECT_FALSE(slab_.try_put_free(block(5), slab_.shape())) << "twice";
  EXPECT_FALSE(slab_.try_put_free(beside(6, 1), slab_.shape())) << "inside a block";
  EXPECT_FALSE(slab_.try_put_free(block(20), slab_.shape())) << "never carved";
  EXPECT_FALSE(slab_.try_put_free(beside(0, -16), slab_.shape())) << "before the slab";
  EXPECT_EQ(slab_.count_free(), 1u);
}

// Blocks that come back by rows leave the map that each of them alone would leave, whatever their order.
TEST_F(SlabTest, RowsOfBlocksComeBackAsEachOfThemWould) {
  for (size_t bytes : {16, 48, 1000, 24000}) {
    slab_.size_class = size_class_of(bytes);
    uint32_t capacity = slab_.shape().capacity;
    std::vector<Block*> upwards;
    for (uint32_t i = 0; i < capacity; ++i) upwards.push_back(block(i));
    std::vector<Block*> downwards(upwards.rbegin(), upwards.rend());
    std::vector<Block*> with_gaps;
    for (uint32_t i = 0; i < capacity; ++i)
      if (i % 11 != 3 && i % 63 != 0) with_gaps.push_back(block(i));
    std::vector<Block*> back_and_forth = downwards;
    std::reverse(back_and_forth.begin() + capacity / 3, back_and_forth.end());
    for (const auto& blocks : {upwards, downwards, with_gaps, back_and_forth})
      for (uint32_t first = 0; first < blocks.size(); first += 29) {
        auto count = static_cast<uint32_t>(blocks.size()) - first;
        fill(capacity, 0);
        slab_.free_word = kFreeMapWords - 1;
        ASSERT_EQ(slab_.put_free_rows(blocks.data() + first, count), count) << bytes;
        std::vector<Block*> expected(blocks.begin() + first, blocks.end());
        std::sort(expected.begin(), expected.end());
        std::vector<Block*> taken(capacity);
        uint32_t some = slab_.take_free(taken.data(), count / 3);
        ASSERT_EQ(some, count / 3);
        taken.resize(some + slab_.take_free(taken.data() + some, capacity - some));
        ASSERT_EQ(taken, expected) << bytes << " from " << first;
      }
  }
}

// A row ends before what may not come back, and what stands before that has come back.
TEST_F(SlabTest, ARowEndsAtWhatMayNotComeBack) {
  slab_.size_class = size_class_of(16);
  uint32_t carved = 200;
  auto ends_at = [&](uint32_t expected, std::vector<Block*> blocks) {
    uint32_t before = slab_.count_free();
    EXPECT_EQ(slab_.put_free_rows(blocks.data(), static_cast<uint32_t>(blocks.size())), expected);
    EXPECT_EQ(slab_.count_free(), before + expected);
    for (uint32_t i = 0; i < expected; ++i) EXPECT_TRUE(slab_.has_free(blocks[i]));
  };
  auto inside = reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(block(4)) + 8);
  fill(carved, 0);
  ends_at(3, {block(1), block(2), block(3), inside, block(5)});
  fill(carved, 0);
  ends_at(2, {block(198), block(199), block(200), block(201)});  // which were never carved
  fill(carved, 0);
  ends_at(2, {block(1), block(0), block(0) - 1, block(0) - 2});  // before the slab
  fill(carved, 0);
  ends_at(4, {block(70), block(71), block(72), block(73), block(72), block(71)});  // twice
  fill(carved, 0);
  slab_.put_free(block(67));
  ends_at(3, {block(70), block(69), block(68), block(67), block(66)});  // came back before
  ends_at(0, {block(69), block(68)});
}

// Whatever lies between two slabs, at any distance, is no block of the other.
TEST_F(SlabTest, NoBlockOfAnotherSlabIsTaken) {
  fill(slab_.shape().capacity, 0);
  auto* far = reinterpret_cast<Block*>(slab_.start + (uintptr_t{1} << 40));
  for (uintptr_t units = 1; units < 5000; units = units * 3 / 2 + 1) {
    auto* after = reinterpret_cast<Block*>(slab_.start + (slab_.shape().units - 1 + units) * kUnitBytes);
    auto* before = reinterpret_cast<Block*>(slab_.start - units * kUnitBytes);
    for (Block* other : {after, before, far}) EXPECT_FALSE(slab_.try_put_free(other, slab_.shape())) << units;
  }
}

TEST_F(SlabTest, RemoteListsPackOffsetAndCount) {
  for (const ClassShape& shape : kClassShapes)
    for (uint32_t index : {0u, 1u, shape.capacity / 2, shape.capacity - 1})
      for (uint32_t count : {1u, 2u, shape.capacity}) {
        uint32_t offset = index * shape.block_bytes;
        uint64_t word = RemoteList::pack(offset, count);
        EXPECT_NE(word, 0u);
        EXPECT_EQ(RemoteList::offset(word), offset);
        EXPECT_EQ(RemoteList::count(word), count);
      }
  EXPECT_EQ(RemoteList::count(0), 0u);
}

TEST_F(SlabTest, SettlingTakesTheOwnersFreesIntoAccount) {
  fill(10, 2);
  slab_.set_countdown(5);
  // Two frees by the owner.
  for (uint32_t i : {8u, 9u}) {
    slab_.put_free(block(i));
    --slab_.countdown;
  }
  EXPECT_EQ(slab_.settled_frees(), 2u);
  EXPECT_TRUE(slab_.is_consistent());
  EXPECT_EQ(slab_.settle(), 2u);
  EXPECT_EQ(slab_.used, 6u);
  EXPECT_EQ(slab_.listed(), 4u);
  EXPECT_EQ(slab_.settled_frees(), 0u);
  EXPECT_EQ(slab_.countdown, 3u);
  EXPECT_TRUE(slab_.is_consistent());
  EXPECT_EQ(slab_.settle(), 0u);
}

TEST_F(SlabTest, ConsistencyFindsSeededErrors) {
  fill(20, 5);
  ASSERT_TRUE(slab_.is_consistent());
  auto breaks = [&](auto change) {
    fill(20, 5);
    slab_.set_countdown(kNoThreshold);
    slab_.state = SlabState::Current;
    change();
    bool found = !slab_.is_consistent();
    slab_.size_class = size_class_of(1000);
    slab_.units = 1;
    return found;
  };
  EXPECT_FALSE(breaks([] {}));
  EXPECT_TRUE(breaks([&] { ++slab_.used; }));
  EXPECT_TRUE(breaks([&] { --slab_.used; }));
  EXPECT_TRUE(breaks([&] { ++slab_.carved; }));
  EXPECT_TRUE(breaks([&] { slab_.carved = slab_.used = slab_.shape().capacity + 1; }));
  EXPECT_TRUE(breaks([&] { slab_.used = 21; }));
  EXPECT_TRUE(breaks([&] { free_map_[0] &= free_map_[0] - 1; })) << "a lost block";
  EXPECT_TRUE(breaks([&] { free_map_[0] = 0; })) << "a lost map";
  EXPECT_TRUE(breaks([&] { slab_.put_free(block(19)); })) << "a live block in the map";
  EXPECT_TRUE(breaks([&] {
    --slab_.used;
    slab_.put_free(block(30));
  })) << "a block that was never carved";
  EXPECT_TRUE(breaks([&] { slab_.free_word = 1; })) << "a block that is never found";
  EXPECT_TRUE(breaks([&] { slab_.countdown = slab_.countdown_start + 1; }));
  EXPECT_TRUE(breaks([&] { slab_.size_class = kSizeClassCount; }));
  EXPECT_TRUE(breaks([&] { slab_.state = SlabState::Free; })) << "freed with live blocks";
  EXPECT_TRUE(breaks([&] {
    fill(20, 20);
    slab_.state = SlabState::Free;
  })) << "freed with its map";
  EXPECT_TRUE(breaks([&] {
    slab_.state = SlabState::Large;
    slab_.units = 0;
  }));
  EXPECT_TRUE(breaks([&] { --slab_.countdown; })) << "a free that is on no list";
  EXPECT_TRUE(breaks([&] { slab_.size_class = kSizeClassCount; }));
  EXPECT_TRUE(breaks([&] { slab_.state = SlabState::Free; }));
}

TEST_F(SlabTest, ListsOfSlabs) {
  std::vector<Slab> slabs(5);
  SlabList list;
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.pop_front(), nullptr);
  for (Slab& slab : slabs) list.push_front(&slab);
  EXPECT_FALSE(list.empty());
  list.remove(&slabs[2]);  // from the middle
  list.remove(&slabs[0]);  // the last
  list.remove(&slabs[4]);  // the first
  EXPECT_EQ(list.first(), &slabs[3]);
  EXPECT_EQ(slabs[3].next, &slabs[1]);
  EXPECT_EQ(slabs[1].previous, &slabs[3]);
  for (uint32_t removed : {0u, 2u, 4u}) EXPECT_TRUE(slabs[removed].next == nullptr && !slabs[removed].previous);
  list.push_front(&slabs[2]);
  EXPECT_EQ(list.pop_front(), &slabs[2]);
  EXPECT_EQ(list.pop_front(), &slabs[3]);
  EXPECT_EQ(list.pop_front(), &slabs[1]);
  EXPECT_TRUE(list.empty());
}

}  // namespace
}  // namespace hakmem
