#include "allocator/page_arena/page_arena.h"

#include <gtest/gtest.h>
#include <string.h>

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "tests/unit/support/build.h"
#include "tests/unit/support/fake_memory.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using test::Call;
using test::FakeKernel;
using test::FakeMemory;
using Arena = PageArena<FakeMemory>;

constexpr size_t kLimit = kGiB;  // of the address space: reservations of 64 MiB

class PageArenaTest : public testing::Test {
 protected:
  PageArenaTest() { kernel_.set_address_space_limit(kLimit); }

  FakeKernel kernel_;
  std::unique_ptr<Arena> arena_ = std::make_unique<Arena>();
};

bool is_zero(uintptr_t address, size_t bytes) {
  const char* content = reinterpret_cast<const char*>(address);
  return content[0] == 0 && memcmp(content, content + 1, bytes - 1) == 0;
}

TEST_F(PageArenaTest, SuperslabsAreDistinctAlignedAndZero) {
  std::set<uintptr_t> superslabs, metadata;
  for (int i = 0; i < 100; ++i) {
    auto taken = arena_->take_superslab();
    ASSERT_NE(taken.address, 0u);
    EXPECT_EQ(taken.address % kSuperslabBytes, 0u);
    EXPECT_EQ(taken.metadata % kPageBytes, 0u);
    EXPECT_TRUE(superslabs.insert(taken.address).second);
    EXPECT_TRUE(metadata.insert(taken.metadata).second);
    EXPECT_TRUE(is_zero(taken.metadata, kSuperslabMetadataBytes));
    memset(reinterpret_cast<void*>(taken.metadata), 0xAB, kSuperslabMetadataBytes);
    memset(reinterpret_cast<void*>(taken.address), 0xCD, kPageBytes);
    memset(reinterpret_cast<void*>(taken.address + kSuperslabBytes - kPageBytes), 0xCD, kPageBytes);
    ASSERT_TRUE(arena_->is_consistent());
  }
  // Metadata and superslabs stand apart.
  for (uintptr_t address : metadata) {
    auto above = superslabs.upper_bound(address);
    if (above != superslabs.begin()) {
      EXPECT_GE(address, *std::prev(above) + kSuperslabBytes);
    }
  }
  EXPECT_EQ(arena_->reservation_count(), 4u);  // 100 superslabs of 2 MiB by 64 MiB
}

TEST_F(PageArenaTest, AddressesAreFoundInEveryReservation) {
  kernel_.set_address_space_limit(32 * kMiB);  // reservations of one superslab
  std::map<uintptr_t, Arena::NewSuperslab> taken;
  for (int i = 0; i < 20; ++i) {
    auto superslab = arena_->take_superslab();
    ASSERT_NE(superslab.address, 0u);
    taken[superslab.address] = superslab;
  }
  EXPECT_EQ(arena_->reservation_count(), 20u);
  for (auto& [address, superslab] : taken)
    for (uintptr_t inside : {address, address + 1, address + kSuperslabBytes - 1}) {
      auto location = arena_->find(inside);
      ASSERT_EQ(location.reservation, &arena_->reservation(superslab.reservation));
      EXPECT_EQ(location.superslab, superslab.index);
    }
  for (auto& [address, superslab] : taken) {
    EXPECT_EQ(arena_->find(superslab.metadata).reservation, nullptr);
    if (!taken.contains(address + kSuperslabBytes)) {
      EXPECT_EQ(arena_->find(address + kSuperslabBytes).reservation, nullptr);
      EXPECT_FALSE(kernel_.is_committed(address + kSuperslabBytes)) << "no guard page";
    }
  }
  int on_stack = 0;
  EXPECT_EQ(arena_->find(reinterpret_cast<uintptr_t>(&on_stack)).reservation, nullptr);
  EXPECT_EQ(arena_->find(0).reservation, nullptr);
  EXPECT_EQ(arena_->find(UINTPTR_MAX).reservation, nullptr);
}

TEST_F(PageArenaTest, AddressesBeyondWhatIsCommittedAreNotFound) {
  auto first = arena_->take_superslab();
  ASSERT_NE(first.address, 0u);
  EXPECT_EQ(arena_->reservation(0).capacity, 32u);
  EXPECT_EQ(arena_->find(first.address + kSuperslabBytes).reservation, nullptr);
  auto second = arena_->take_superslab();
  EXPECT_EQ(second.address, first.address + kSuperslabBytes);  // lowest first
  EXPECT_NE(arena_->find(second.address).reservation, nullptr);
}

TEST_F(PageArenaTest, UnlimitedProcessesGetOneLargeReservation) {
  if (test::kThreadSanitizer) GTEST_SKIP() << "the sanitizer's shadow of so many addresses is too large";
  kernel_.set_address_space_limit(SIZE_MAX);
  for (int i = 0; i < 40; ++i) ASSERT_NE(arena_->take_superslab().address, 0u);
  EXPECT_EQ(arena_->reservation_count(), 1u);
  EXPECT_EQ(arena_->reservation(0).capacity, Arena::kDefaultReservationBytes / kSuperslabBytes);
}

TEST_F(PageArenaTest, ReservationsShrinkUntilTheKernelAgrees) {
  kernel_.refuse_reservations_above(9 * kMiB);
  ASSERT_NE(arena_->take_superslab().address, 0u);
  EXPECT_EQ(arena_->reservation(0).capacity, 4u);  // 8 MiB and its guard page
  for (int i = 0; i < 4; ++i) ASSERT_NE(arena_->take_superslab().address, 0u);
  EXPECT_EQ(arena_->reservation_count(), 2u);
}

TEST_F(PageArenaTest, ReservationsAreUsedUpToTheirLimit) {
  kernel_.set_address_space_limit(32 * kMiB);
  kernel_.refuse_reservations_above(kSuperslabBytes + kPageBytes);
  for (uint32_t i = 0; i < Arena::kMaxReservations; ++i) ASSERT_NE(arena_->take_superslab().address, 0u) << i;
  EXPECT_EQ(arena_->take_superslab().address, 0u);
  EXPECT_EQ(arena_->take_superslab().address, 0u);
  EXPECT_TRUE(arena_->is_consistent());
  EXPECT_NE(arena_->allocate_metadata(64), nullptr);
}

TEST_F(PageArenaTest, AKernelThatGivesNothingAndRecovers) {
  for (Call call : {Call::kReserve, Call::kAllowReading, Call::kCommit}) {
    Arena arena;
    size_t reserved_before = kernel_.reserved_bytes();
    kernel_.fail_always(call);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(arena.take_superslab().address, 0u);
      EXPECT_EQ(arena.allocate_metadata(100) == nullptr, call != Call::kAllowReading);
      EXPECT_TRUE(arena.is_consistent());
    }
    // What was reserved on the way is given back or kept for later, but never again and again.
    EXPECT_LE(kernel_.reserved_bytes(), reserved_before + 65 * kMiB);
    kernel_.recover();
    auto first = arena.take_superslab();
    ASSERT_NE(first.address, 0u);
    EXPECT_EQ(first.index, 0u) << "a superslab was lost";
    memset(reinterpret_cast<void*>(first.metadata), 1, kSuperslabMetadataBytes);
    EXPECT_NE(arena.allocate_metadata(100), nullptr);
  }
}

// Refuses every single call once, whichever it is.
TEST_F(PageArenaTest, EverySingleRefusalIsSurvived) {
  for (Call call : {Call::kReserve, Call::kAllowReading, Call::kCommit})
    for (uint64_t nth = 1;; ++nth) {
      Arena arena;
      kernel_.fail(call, nth);
      uint64_t refusals = kernel_.refusals(call);
      std::set<uintptr_t> addresses, metadata;
      uint32_t nulls = 0;
      while (addresses.size() < 40) {
        auto taken = arena.take_superslab();
        nulls += taken.address == 0;
        ASSERT_LE(nulls, 1u);
        if (taken.address == 0) continue;
        ASSERT_TRUE(addresses.insert(taken.address).second);
        memset(reinterpret_cast<void*>(taken.metadata), 1, kSuperslabMetadataBytes);
        *reinterpret_cast<char*>(taken.address + kSuperslabBytes - 1) = 1;
        ASSERT_TRUE(arena.is_consistent());
      }
      uint32_t committed = 0;
      for (uint32_t i = 0; i < arena.reservation_count(); ++i) committed += arena.reservation(i).committed;
      EXPECT_EQ(committed, 40u) << "a superslab was lost";
      bool refused = kernel_.refusals(call) > refusals;
      kernel_.recover();
      if (!refused) break;  // all calls were tried
    }
}

// The sizes of the ranges of metadata, in the order in which they came.
std::vector<size_t> metadata_ranges(const Arena& arena) {
  std::vector<size_t> sizes;
  arena.visit_metadata([&](uintptr_t, size_t bytes) { sizes.push_back(bytes); });
  return sizes;
}

TEST_F(PageArenaTest, ALargeChunkOfMetadataThatIsRefusedIsTakenSmaller) {
  if (has(Mitigation::kBlockStates)) GTEST_SKIP() << "all chunks are of one size";
  for (Call call : {Call::kReserve, Call::kCommit}) {
    Arena arena;
    ASSERT_NE(arena.allocate_metadata(64), nullptr);
    size_t usual = metadata_ranges(arena).back();
    while (metadata_ranges(arena).back() == usual) ASSERT_NE(arena.allocate_metadata(usual), nullptr);
    size_t large = metadata_ranges(arena).back();
    ASSERT_NE(arena.allocate_metadata(large - usual), nullptr);  // the rest of it
    size_t reserved = kernel_.reserved_bytes();
    kernel_.fail(call, 1);
    ASSERT_NE(arena.allocate_metadata(usual), nullptr);
    kernel_.recover();
    EXPECT_EQ(metadata_ranges(arena).back(), usual);
    EXPECT_LE(kernel_.reserved_bytes(), reserved + usual + 2 * kPageBytes) << "what was refused is kept";
    ASSERT_NE(arena.allocate_metadata(64), nullptr);
    EXPECT_EQ(metadata_ranges(arena).back(), large);
  }
}

TEST_F(PageArenaTest, MetadataIsDistinctAlignedAndZero) {
  std::map<uintptr_t, size_t> blocks;
  size_t sizes[] = {1, 64, 65, 4000, 20000, 64 * kKiB, 64 * kKiB + 1, 300000};
  for (int i = 0; i < 400; ++i) {
    size_t bytes = sizes[i % 8];
    auto address = reinterpret_cast<uintptr_t>(arena_->allocate_metadata(bytes));
    ASSERT_NE(address, 0u);
    EXPECT_EQ(address % 64, 0u);
    ASSERT_TRUE(is_zero(address, bytes));
    memset(reinterpret_cast<void*>(address), 0xEE, bytes);
    blocks[address] = bytes;
  }
  uintptr_t end = 0;
  for (auto [address, bytes] : blocks) {
    EXPECT_GE(address, end);
    end = address + bytes;
  }
  // Each block lies in exactly one of the ranges that views are shown.
  std::map<uintptr_t, size_t> ranges;
  arena_->visit_metadata([&](uintptr_t address, size_t bytes) {
    EXPECT_TRUE(kernel_.is_committed(address));
    EXPECT_TRUE(kernel_.is_committed(address + bytes - 1));
    EXPECT_FALSE(kernel_.is_committed(address - 1)) << "no guard page";
    EXPECT_FALSE(kernel_.is_committed(address + bytes)) << "no guard page";
    EXPECT_TRUE(ranges.emplace(address, bytes).second);
  });
  for (auto [address, bytes] : blocks) {
    auto range = std::prev(ranges.upper_bound(address));
    EXPECT_LE(address + bytes, range->first + range->second);
  }
}

TEST_F(PageArenaTest, RefusedMetadataLeavesNothingBehind) {
  ASSERT_NE(arena_->allocate_metadata(64), nullptr);
  size_t reserved = kernel_.reserved_bytes();
  kernel_.fail_always(Call::kCommit);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(arena_->allocate_metadata(kMiB), nullptr);
  EXPECT_EQ(kernel_.reserved_bytes(), reserved);
  EXPECT_NE(arena_->allocate_metadata(64), nullptr);  // what is left of the chunk is still there
  EXPECT_TRUE(arena_->is_consistent());
}

TEST_F(PageArenaTest, ThreadsGetTheirOwn) {
  constexpr uint32_t kThreads = 4, kEach = 60;
  uintptr_t addresses[kThreads][kEach] = {};
  test::run_threads(kThreads, [&](uint32_t thread) {
    for (uint32_t i = 0; i < kEach; ++i) {
      auto taken = arena_->take_superslab();
      addresses[thread][i] = taken.address;
      EXPECT_NE(arena_->find(taken.address).reservation, nullptr);
      memset(reinterpret_cast<void*>(taken.metadata), 1, kSuperslabMetadataBytes);
      void* metadata = arena_->allocate_metadata(1000);
      EXPECT_TRUE(is_zero(reinterpret_cast<uintptr_t>(metadata), 1000));
      memset(metadata, 1, 1000);
    }
  });
  std::set<uintptr_t> all;
  for (auto& thread : addresses)
    for (uintptr_t address : thread) EXPECT_TRUE(address != 0 && all.insert(address).second);
}

}  // namespace
}  // namespace hakmem
