#include "allocator/shared_pool/shared_pool.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/unit/support/build.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

constexpr uintptr_t kOwner = 4096;

// Slabs without memory: full of live blocks.
class SharedPoolTest : public testing::Test {
 protected:
  Slab* make_slab(uint32_t size_class, uint32_t used) {
    auto& slab = slabs_.emplace_back(std::make_unique<Slab>());
    slab->state = SlabState::Current;
    slab->free_map = free_map_;
    slab->size_class = size_class;
    slab->used = slab->carved = used;
    slab->set_countdown(kNoThreshold);
    slab->owner.store(kOwner);
    return slab.get();
  }

  uint64_t free_map_[kFreeMapWords]{};  // of all slabs: no block is free
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::unique_ptr<SharedPool::Places> places_ = std::make_unique<SharedPool::Places>();
  SharedPool pool_{*places_};
};

TEST_F(SharedPoolTest, GivesBackWhatItWasGivenByClass) {
  EXPECT_EQ(pool_.take(3, kOwner), nullptr);
  Slab* first = make_slab(3, 5);
  Slab* second = make_slab(3, 6);
  Slab* other = make_slab(4, 7);
  for (Slab* slab : {first, second, other}) pool_.give(slab, false);
  EXPECT_TRUE(pool_.is_consistent());
  EXPECT_EQ(first->owner.load(), owner::kPooled);
  EXPECT_EQ(first->state, SlabState::Pooled);
  EXPECT_EQ(pool_.take(2, kOwner), nullptr);
  EXPECT_EQ(pool_.take(4, 8192), other);
  EXPECT_EQ(other->owner.load(), 8192u);
  EXPECT_EQ(pool_.take(3, kOwner), second);
  EXPECT_EQ(pool_.take(3, kOwner), first);
  EXPECT_EQ(pool_.take(3, kOwner), nullptr);
  EXPECT_TRUE(pool_.is_consistent());
}

TEST_F(SharedPoolTest, SlabsOfLargerBlocksComeInTheOrderInWhichTheyWereGiven) {
  uint32_t size_class = size_class_of(2048);
  Slab* first = make_slab(size_class, 5);
  Slab* second = make_slab(size_class, 6);
  for (Slab* slab : {first, second}) pool_.give(slab, false);
  EXPECT_TRUE(pool_.is_consistent());
  for (Slab* slab : {first, second}) EXPECT_EQ(pool_.take(size_class, kOwner), slab);
}

TEST_F(SharedPoolTest, ASlabThatThreadsShareIsTheNext) {
  uint32_t size_class = size_class_of(2048);
  Slab* first = make_slab(size_class, 5);
  Slab* second = make_slab(size_class, 6);
  for (Slab* slab : {first, second}) pool_.give(slab, true);
  for (Slab* slab : {second, first}) EXPECT_EQ(pool_.take(size_class, kOwner), slab);
}

TEST_F(SharedPoolTest, AnEmptySlabIsTakenOutOnce) {
  Slab* before = make_slab(3, 5);
  Slab* slab = make_slab(3, 2);
  Slab* after = make_slab(3, 5);
  for (Slab* each : {before, slab, after}) pool_.give(each, false);
  slab->remote.store(RemoteList::pack(0, 1));
  EXPECT_FALSE(pool_.take_if_empty(slab)) << "one block is live";
  slab->remote.store(RemoteList::pack(16, 2));
  EXPECT_TRUE(pool_.take_if_empty(slab));
  // The threads that freed the last two blocks may both come to ask.
  EXPECT_FALSE(pool_.take_if_empty(slab)) << "two threads would retire it";
  EXPECT_TRUE(pool_.is_consistent());
  EXPECT_NE(pool_.take(3, kOwner), nullptr);
  EXPECT_NE(pool_.take(3, kOwner), nullptr);
  EXPECT_EQ(pool_.take(3, kOwner), nullptr);
}

TEST_F(SharedPoolTest, ASlabThatWasAdoptedIsNotTakenOut) {
  Slab* slab = make_slab(3, 2);
  pool_.give(slab, false);
  EXPECT_EQ(pool_.take(3, kOwner), slab);
  slab->remote.store(RemoteList::pack(16, 2));
  EXPECT_FALSE(pool_.take_if_empty(slab));
  EXPECT_TRUE(pool_.is_consistent());
}

TEST_F(SharedPoolTest, ConsistencyFindsSeededErrors) {
  Slab* slab = make_slab(3, 2);
  pool_.give(slab, false);
  EXPECT_TRUE(pool_.is_consistent());
  slab->state = SlabState::Current;
  EXPECT_FALSE(pool_.is_consistent());
  slab->state = SlabState::Pooled;
  slab->size_class = 4;
  EXPECT_FALSE(pool_.is_consistent());
  slab->size_class = 3;
  ++slab->used;
  EXPECT_FALSE(pool_.is_consistent());
  --slab->used;
  EXPECT_TRUE(pool_.is_consistent());
  slab->next = make_slab(3, 2);
  EXPECT_FALSE(pool_.is_consistent());
  slab->next->state = SlabState::Pooled;
  EXPECT_FALSE(pool_.is_consistent()) << "a slab that was not counted";
}

// Each slab has one owner at a time, however the threads come together.
TEST_F(SharedPoolTest, ThreadsTakeAndGive) {
  constexpr uint32_t kThreads = 4, kSlabs = 6;
  for (uint32_t i = 0; i < kSlabs; ++i) pool_.give(make_slab(i % 2, 5), false);
  test::run_threads(kThreads, [&](uint32_t thread) {
    uintptr_t tag = (thread + 1) * uintptr_t{4096};
    for (uint32_t i = 0; i < test::rounds(40000); ++i) {
      Slab* slab = pool_.take(i % 2, tag);
      if (slab == nullptr) continue;
      ASSERT_EQ(slab->owner.load(), tag);
      slab->state = SlabState::Current;  // a plain field: tsan would see two owners
      slab->used += 1;
      slab->used -= 1;
      ASSERT_EQ(slab->owner.load(), tag);
      pool_.give(slab, false);
    }
  });
  EXPECT_TRUE(pool_.is_consistent());
  uint32_t left = 0;
  for (uint32_t i = 0; i < 2; ++i)
    while (pool_.take(i, kOwner) != nullptr) ++left;
  EXPECT_EQ(left, kSlabs);
}

// The last frees of a pooled slab come from many threads at once: one of them retires it.
TEST_F(SharedPoolTest, OneOfTheLastFreesRetires) {
  constexpr uint32_t kThreads = 3;
  for (uint32_t round = 0; round < test::rounds(2000); ++round) {
    Slab* slab = make_slab(5, kThreads);
    pool_.give(slab, false);
    std::atomic<uint32_t> retirements{0};
    test::run_threads(kThreads, [&](uint32_t thread) {
      uint64_t old = slab->remote.load();
      while (!slab->remote.compare_exchange_weak(old, RemoteList::pack(thread * 96, RemoteList::count(old) + 1))) {
      }
      if (pool_.take_if_empty(slab)) retirements.fetch_add(1);
    });
    ASSERT_EQ(retirements.load(), 1u);
    ASSERT_TRUE(pool_.is_consistent());
    slabs_.clear();
  }
}

}  // namespace
}  // namespace hakmem
