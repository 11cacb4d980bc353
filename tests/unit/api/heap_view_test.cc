// The heap view while other threads work, and what is computed from it.
#include "allocator/metrics/heap_view.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "allocator/api/allocator.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/thread_cache/bin.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/sampling.h"
#include "tests/unit/support/accounts.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/counters.h"
#include "tests/unit/support/shadow_heap.h"
#include "tests/unit/support/threads.h"

namespace hakmem {
namespace {

using metrics::heap_view;
using test::rounds;
using test::ShadowHeap;

// One visit of everything; checks what must hold at any moment.
struct Visit {
  uint64_t superslabs = 0, slabs = 0;
  size_t slab_bytes = 0, metadata_bytes = 0, reserved_bytes = 0;
  uintptr_t superslab = 0;
  uintptr_t end_of_last_slab = 0;

  void run() {
    heap_view.visit_superslabs(
        [](void* argument, const metrics::SuperslabView& view) { static_cast<Visit*>(argument)->see(view); }, this);
    heap_view.visit_threads(
        [](void*, const metrics::ThreadCacheView& view) {
          for (uint32_t i = 0; i < kSizeClassCount; ++i) EXPECT_LE(view.listed[i], kBinShapes[i].capacity);
        },
        nullptr);
    heap_view.visit_huge(
        [](void*, const metrics::HugeView& view) {
          EXPECT_NE(view.mapping.address, 0u);
          EXPECT_LT(view.mapping.bytes, size_t{1} << 40);
        },
        nullptr);
    heap_view.visit_metadata(
        [](void* argument, const metrics::RangeView& view) {
          static_cast<Visit*>(argument)->metadata_bytes += view.bytes;
        },
        this);
    heap_view.visit_reservations(
        [](void* argument, const metrics::RangeView& view) {
          static_cast<Visit*>(argument)->reserved_bytes += view.bytes;
        },
        this);
    EXPECT_GE(reserved_bytes, superslabs * kSuperslabBytes);
    EXPECT_GE(metadata_bytes, superslabs * kSuperslabMetadataBytes);
    EXPECT_LE(slab_bytes, superslabs * kSuperslabBytes);
  }

  void see(const metrics::SuperslabView& view) {
    ++superslabs;
    EXPECT_EQ(view.bytes, kSuperslabBytes);
    EXPECT_EQ(view.address % kSuperslabBytes, 0u);
    EXPECT_EQ(view.dirty_units_mask & ~view.free_units_mask, 0u);
    EXPECT_LT(view.state, metrics::SuperslabState::kCount);
    superslab = end_of_last_slab = view.address;
    heap_view.visit_slabs(
        view.address, [](void* argument, const metrics::SlabView& slab) { static_cast<Visit*>(argument)->see(slab); },
        this);
  }

  void see(const metrics::SlabView& view) {
    ++slabs;
    slab_bytes += view.bytes;
    EXPECT_GE(view.address, end_of_last_slab) << "slabs come in order and do not overlap";
    end_of_last_slab = view.address + view.bytes;
    EXPECT_LE(end_of_last_slab, superslab + kSuperslabBytes);
    EXPECT_LE(view.used, view.carved);
    EXPECT_LE(view.carved, view.capacity);
    EXPECT_LE(size_t{view.capacity} * view.block_bytes, kMaxLargeBytes);
    EXPECT_GT(view.block_bytes, 0u);
    EXPECT_NE(view.state, metrics::SlabState::Free);
    EXPECT_LT(view.state, metrics::SlabState::kCount);
    EXPECT_LE(view.size_class, metrics::kLargeClass);
  }
};

TEST(HeapView, NeverShowsWhatCannotBe) {
  constexpr uint32_t kWorkers = 3;
  test::start_process();
  test::SampleInterval interval(16 * kKiB);
  std::atomic<uint32_t> working{kWorkers};
  std::atomic<uint64_t> visits{0};
  test::Mailbox mailboxes[kWorkers];
  test::run_threads(kWorkers + 1, [&](uint32_t thread) {
    if (thread == kWorkers) {
      while (working.load() > 0) {
        Visit visit;
        visit.run();
        visits.fetch_add(1);
      }
      return;
    }
    ShadowHeap shadow(thread, {.log2_max_bytes = 21, .max_blocks = 1000, .max_bytes = 24 * kMiB});
    for (uint32_t i = 0; i < rounds(12000) || visits.load() < 20; ++i) {
      shadow.step();
      if (!shadow.empty()) mailboxes[shadow.random().below(kWorkers)].put(shadow.give());
      if (i % 8 == 0) mailboxes[thread].empty_into(shadow);
      if (i % 2048 == 0) purge_all();
    }
    working.fetch_sub(1);
    while (working.load() > 0) std::this_thread::yield();
    mailboxes[thread].empty_into(shadow);
    shadow.free_all();
  });
  test::expect_books_balance({});
}

// What views show of each superslab.
struct Shown {
  metrics::SuperslabView superslab;
  std::vector<metrics::SlabView> slabs;
};
using ShownHeap = std::map<uint32_t, Shown>;

ShownHeap look_at_heap() {
  ShownHeap shown;
  heap_view.visit_superslabs(
      [](void* heap, const metrics::SuperslabView& view) {
        Shown& superslab = (*static_cast<ShownHeap*>(heap))[view.number];
        superslab.superslab = view;
        heap_view.visit_slabs(
            view.address,
            [](void* slabs, const metrics::SlabView& slab) {
              static_cast<std::vector<metrics::SlabView>*>(slabs)->push_back(slab);
            },
            &superslab.slabs);
      },
      &shown);
  return shown;
}

bool is_same(const metrics::SlabView& a, const metrics::SlabView& b) {
  return a.address == b.address && a.bytes == b.bytes && a.size_class == b.size_class && a.state == b.state &&
         a.carved == b.carved && a.used == b.used && a.requested_bytes == b.requested_bytes && a.remote == b.remote;
}

bool is_same(const Shown& a, const Shown& b) {
  return a.superslab.address == b.superslab.address && a.superslab.free_units_mask == b.superslab.free_units_mask &&
         std::equal(a.slabs.begin(), a.slabs.end(), b.slabs.begin(), b.slabs.end(),
                    [](const auto& x, const auto& y) { return is_same(x, y); });
}

// Scrapes do not read again what was not marked.
TEST(HeapView, ASuperslabThatIsNotMarkedHasNotChanged) {
  if (!kBuild.stats) GTEST_SKIP() << "nothing is marked in a build without statistics";
  constexpr uint32_t kWorkers = 3;
  test::start_process();
  test::SampleInterval interval(64 * kKiB);
  test::Mailbox mailboxes[kWorkers];
  std::vector<std::unique_ptr<ShadowHeap>> shadows;
  std::vector<std::unique_ptr<test::OtherThread>> threads;
  for (uint32_t i = 0; i < kWorkers; ++i) {
    shadows.push_back(std::make_unique<ShadowHeap>(
        i, ShadowHeap::Limits{.log2_max_bytes = 20, .max_blocks = 2000, .max_bytes = 48 * kMiB}));
    threads.push_back(std::make_unique<test::OtherThread>());
  }
  auto step = [&](uint32_t worker, uint32_t steps) {
    ShadowHeap& shadow = *shadows[worker];
    for (uint32_t i = 0; i < steps; ++i) {
      shadow.step();
      if (i % 4 == 0 && !shadow.empty()) mailboxes[shadow.random().below(kWorkers)].put(shadow.give());
      if (i % 8 == 0) mailboxes[worker].empty_into(shadow);
    }
  };
  uint64_t unmarked = 0, changed = 0;
  for (uint32_t round = 0; round < rounds(200); ++round) {
    uint16_t look = 0;
    for (int i = 0; i < 3; ++i) look = heap_view.begin_look();
    ShownHeap before = look_at_heap();
    // Much of the time one thread does little, so that most of the heap stays as it is.
    uint32_t steps = round % 8 == 0 ? 500 : 1 + round % 3;
    for (uint32_t worker = 0; worker < kWorkers; ++worker)
      if (round % 8 == 0 || round % kWorkers == worker) threads[worker]->run([&, worker] { step(worker, steps); });
    if (round % 64 == 0) purge_all();
    if (round % 100 == 99) threads[round / 100 % kWorkers] = std::make_unique<test::OtherThread>();
    ShownHeap after = look_at_heap();
    for (const auto& [number, now] : after) {
      auto then = before.find(number);
      bool is_known = then != before.end();
      bool is_changed = !is_known || !is_same(then->second, now);
      changed += is_changed;
      if (!is_known || then->second.superslab.changed_in != now.superslab.changed_in) continue;
      ++unmarked;
      ASSERT_GE(static_cast<uint16_t>(look - now.superslab.changed_in), 2) << "the threads stood still";
      ASSERT_FALSE(is_changed) << "superslab " << number << " in round " << round;
    }
  }
  EXPECT_GT(unmarked, rounds(200)) << "most stay unmarked";
  EXPECT_GT(changed, rounds(200));
  for (uint32_t worker = 0; worker < kWorkers; ++worker) {
    mailboxes[worker].empty_into(*shadows[worker]);
    shadows[worker]->free_all();
  }
  threads.clear();
}

// A scrape must not hold a program up, nor wait for it. A view that takes a lock hangs here.
TEST(HeapView, TakesNoLock) {
  test::start_process();
  void* small = allocate(100);
  void* huge = allocate(2 * kMiB);
  {
    LockGuard registry(registry_lock);
    LockGuard pool(heap.pool.lock());
    LockGuard samples(sampled_slabs.lock);
    LockGuard superslabs(heap.superslabs.lock());
    LockGuard huge_blocks(heap.huge.lock());
    LockGuard arena(heap.arena.lock());
    std::thread([&] {
      Visit visit;
      visit.run();
      EXPECT_GT(visit.slabs, 0u);
      metrics::SlabView slab{};
      EXPECT_TRUE(heap_view.slab_at(reinterpret_cast<uintptr_t>(small), &slab));
      for (uint32_t lock = 0; lock < metrics::kCountOf<metrics::Lock>; ++lock)
        heap_view.lock_stats(static_cast<metrics::Lock>(lock));
      EXPECT_GT(heap_view.superslab_hold_back(0) + heap_view.huge_hold_back(0), 0u);
    }).join();
  }
  free(small);
  free(huge);
}

TEST(HeapView, TheSlabAtAnAddress) {
  void* block = allocate(1000);
  auto address = reinterpret_cast<uintptr_t>(block);
  metrics::SlabView slab{};
  for (uintptr_t inside : {address, address + 999}) {
    ASSERT_TRUE(heap_view.slab_at(inside, &slab));
    EXPECT_LE(slab.address, inside);
    EXPECT_GT(slab.address + slab.bytes, inside);
    EXPECT_EQ(class_bytes(slab.size_class), slab.block_bytes);
    EXPECT_GE(slab.used, 1u);
  }
  EXPECT_FALSE(heap_view.slab_at(reinterpret_cast<uintptr_t>(&slab), &slab)) << "of no superslab";
  free(block);
  void* large = allocate(300000);
  address = reinterpret_cast<uintptr_t>(large);
  EXPECT_TRUE(heap_view.slab_at(address, &slab));
  free(large);
  EXPECT_FALSE(heap_view.slab_at(address, &slab)) << "of no slab any more";
}

// What is asked for may be gone by then.
TEST(HeapView, NothingIsSeenWhereThereIsNoSuperslab) {
  auto never = [](void*, const metrics::SlabView&) { FAIL(); };
  uint64_t outside = 0;
  heap_view.visit_slabs(reinterpret_cast<uintptr_t>(&outside), never, nullptr);
  EXPECT_EQ(heap_view.lock_stats(metrics::Lock::kCount).acquisitions, 0u);
}

TEST(HeapView, ClassBytes) {
  for (uint32_t i = 0; i < kSizeClassCount; ++i) EXPECT_EQ(heap_view.class_bytes(i), class_bytes(i));
  EXPECT_EQ(heap_view.class_bytes(metrics::kLargeClass), 0u);
  EXPECT_EQ(heap_view.class_bytes(metrics::kHugeClass), 0u);
}

TEST(HeapView, LargeAndHugeTellTheirRequests) {
  void* large = allocate(300001);
  void* huge = allocate(2 * kMiB + 1);
  struct Found {
    size_t large = 0, huge = 0;
  } found;
  heap_view.visit_superslabs(
      [](void* argument, const metrics::SuperslabView& superslab) {
        heap_view.visit_slabs(
            superslab.address,
            [](void* inner, const metrics::SlabView& slab) {
              if (slab.size_class == metrics::kLargeClass) static_cast<Found*>(inner)->large = slab.requested_bytes;
            },
            argument);
      },
      &found);
  heap_view.visit_huge(
      [](void* argument, const metrics::HugeView& view) {
        if (view.requested_bytes > 0) static_cast<Found*>(argument)->huge = view.requested_bytes;
      },
      &found);
  EXPECT_EQ(found.large, 300001u);
  EXPECT_EQ(found.huge, 2 * kMiB + 1);
  free(large);
  free(huge);
}

TEST(HeapView, TotalsAddUp) {
  HeapTotals before = heap_totals();
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) blocks.push_back(allocate(1024));
  blocks.push_back(allocate(400000));
  blocks.push_back(allocate(3 * kMiB));
  HeapTotals after = heap_totals();
  EXPECT_EQ(after.used_bytes - before.used_bytes, 1000 * 1024 + 400000 + 3 * kMiB);
  EXPECT_EQ(after.huge_allocations, before.huge_allocations + 1);
  EXPECT_EQ(after.huge_bytes, before.huge_bytes + 3 * kMiB);
  EXPECT_GE(after.superslab_bytes, before.superslab_bytes);
  for (void* block : blocks) free(block);
  EXPECT_EQ(heap_totals().used_bytes, before.used_bytes) << "what waits in thread caches is not in use";
  EXPECT_EQ(heap_totals().huge_allocations, before.huge_allocations);
  EXPECT_GT(heap_totals().retained_bytes, 3 * kMiB);
  EXPECT_GT(purge_all(), 3 * kMiB);
  EXPECT_EQ(heap_totals().retained_bytes, 0u);
}

}  // namespace
}  // namespace hakmem
