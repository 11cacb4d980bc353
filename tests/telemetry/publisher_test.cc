// The publisher's figures for heaps whose every byte is known.
#include "telemetry/publisher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "allocator/metrics/counters.h"
#include "telemetry/page_writer.h"
#include "telemetry/snapshot.h"
#include "telemetry/transitions.h"
#include "tests/telemetry/fake_heap.h"
#include "tests/telemetry/in_child.h"

namespace hakmem::telemetry {
namespace {

using metrics::BytesKind;
using metrics::Fragmentation;
using metrics::Metric;
using metrics::Part;
using metrics::SlabState;

constexpr size_t kSuperslabBytes = 2 << 20;
constexpr size_t kUnitBytes = 32 << 10;
constexpr uint32_t kClass = 31;
constexpr uint32_t kObject = 512;  // bytes of one of kClass
constexpr uint32_t kCapacity = 64;
constexpr double kUnit = kUnitBytes;

Snapshot publish_and_read(Depth depth) {
  publish(metrics::heap_view, page(), depth);
  Snapshot snapshot;
  EXPECT_TRUE(read_snapshot(page(), current_page_bytes(), &snapshot).good());
  return snapshot;
}

double part(const Snapshot& snapshot, Part part) {
  return snapshot.gauge(Metric::kResidentBytes, static_cast<uint32_t>(part));
}

metrics::SlabView slab(const Mapping& superslab, uint32_t unit, SlabState state, uint32_t carved, uint32_t used) {
  return {superslab.address() + unit * kUnitBytes, kUnitBytes, kClass, state, kObject, kCapacity, carved, used, 0};
}

// One superslab with a full, a half-full and an empty slab, a large allocation
// of 50,000 bytes in two units, one dirty free unit, and clean free ones.
class KnownHeap {
 public:
  KnownHeap() : superslab_(kSuperslabBytes, 6 * kUnitBytes) {
    uint64_t in_use = 0b11111;
    fake_heap.superslabs = {
        {superslab_.address(), kSuperslabBytes, metrics::SuperslabState::Active, ~in_use, 0b100000, kUnitBytes}};
    fake_heap.slabs[superslab_.address()] = {slab(superslab_, 0, SlabState::Current, 64, 64),
                                             slab(superslab_, 1, SlabState::Available, 64, 32),
                                             slab(superslab_, 2, SlabState::Pooled, 64, 0),
                                             {superslab_.address() + 3 * kUnitBytes, 2 * kUnitBytes,
                                              metrics::kLargeClass, SlabState::Large, 2 * kUnitBytes, 1, 1, 1, 50'000}};
    fake_heap.reservations = {{superslab_.address(), kSuperslabBytes}};
    metrics::ThreadCacheView cache{};
    cache.is_thread = true;
    cache.listed[kClass] = 10;
    fake_heap.threads = {cache};
  }

 private:
  Mapping superslab_;
};

TEST(Publisher, TellsOfEachSizeClass) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    KnownHeap heap;
    // Requests of 448 bytes each are served by objects of 512.
    metrics::count<Metric::kRequestsObserved>(0, kClass, uint64_t{1000});
    metrics::count<Metric::kRequestedBytesObserved>(0, kClass, uint64_t{448'000});
    Snapshot snapshot = publish_and_read(Depth::Heap);

    constexpr uint32_t kStates = metrics::kCountOf<SlabState>;
    EXPECT_EQ(snapshot.gauge(Metric::kSlabs, kClass * kStates + static_cast<uint32_t>(SlabState::Current)), 1);
    EXPECT_EQ(snapshot.gauge(Metric::kSlabs, kClass * kStates + static_cast<uint32_t>(SlabState::Pooled)), 1);
    EXPECT_EQ(snapshot.gauge(Metric::kSlabBytes, kClass), 3 * kUnit);
    EXPECT_EQ(snapshot.gauge(Metric::kSlabOccupancy, kClass), 0.5);
    EXPECT_EQ(snapshot.gauge(Metric::kLiveObjects, kClass), 86) << "96 handed out, 10 of them in a thread cache";
    EXPECT_EQ(snapshot.gauge(Metric::kLiveBytes, kClass), 86 * kObject);
    EXPECT_EQ(snapshot.gauge(Metric::kClassFragmentationBytes, kClass * 2), 86 * 64);
    EXPECT_EQ(snapshot.gauge(Metric::kClassFragmentationBytes, kClass * 2 + 1), 96 * kObject);
    EXPECT_EQ(snapshot.gauge(Metric::kClassFragmentationRatio, kClass * 2 + 1), 0.5);
    EXPECT_EQ(snapshot.gauge(Metric::kThreadCacheBytes, 0), 10 * kObject);
    EXPECT_EQ(snapshot.gauge(Metric::kThreads, 0), 1);
    EXPECT_EQ(snapshot.gauge(Metric::kLiveBytes, metrics::kLargeClass), 2 * kUnit);
    EXPECT_EQ(snapshot.gauge(Metric::kClassFragmentationBytes, metrics::kLargeClass * 2), 2 * kUnit - 50'000);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, TellsOfSuperslabs) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    KnownHeap heap;
    Snapshot snapshot = publish_and_read(Depth::Heap);
    EXPECT_EQ(snapshot.gauge(Metric::kSuperslabs, static_cast<uint32_t>(metrics::SuperslabState::Active)), 1);
    EXPECT_EQ(snapshot.gauge(Metric::kSuperslabBytes, static_cast<uint32_t>(BytesKind::Reserved)), kSuperslabBytes);
    EXPECT_EQ(snapshot.gauge(Metric::kSuperslabBytes, static_cast<uint32_t>(BytesKind::Committed)), 6 * kUnit);
    EXPECT_EQ(snapshot.gauge(Metric::kSuperslabBytes, static_cast<uint32_t>(BytesKind::InUse)), 5 * kUnit);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, WhatIsRetainedBeyondTheHoldBackIsTheBacklogOfPurging) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    KnownHeap heap;  // 5 units in use, one free
    Mapping live(10 << 20, 1 << 20);
    Mapping retained(4 << 20, 1 << 20);
    fake_heap.huge = {{{live.address(), live.bytes()}, 10 << 20}, {{retained.address(), retained.bytes()}, 0}};
    auto backlog = [](size_t hold_back) {
      fake_heap.hold_back = hold_back;
      Snapshot snapshot = publish_and_read(Depth::Heap);
      double shares = 5 * kUnit / 10 + (10 << 20) / 10;
      EXPECT_EQ(snapshot.gauge(Metric::kPurgeHoldBack, 0), static_cast<double>(2 * hold_back) + shares);
      return snapshot.gauge(Metric::kPurgeBacklog, 0);
    };
    EXPECT_EQ(backlog(0), kUnit - 5 * kUnit / 10 + (3 << 20));
    EXPECT_EQ(backlog(1 << 20), 2 << 20) << "of huge mappings alone";
    EXPECT_EQ(backlog(8 << 20), 0);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, GivesEachResidentByteOfTheHeapToOnePart) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    KnownHeap heap;
    Mapping metadata(1 << 20, 12 << 10);
    fake_heap.metadata = {{metadata.address(), metadata.bytes()}};
    Mapping live(8 << 20, 5 << 20);
    Mapping retained(4 << 20, 1 << 20);
    fake_heap.huge = {{{live.address(), live.bytes()}, 6 << 20}, {{retained.address(), retained.bytes()}, 0}};
    Snapshot snapshot = publish_and_read(Depth::Heap);

    EXPECT_EQ(part(snapshot, Part::ThreadCache), 10 * kObject);
    EXPECT_EQ(part(snapshot, Part::SlabFree), 2 * kUnit - 96 * kObject);
    EXPECT_EQ(part(snapshot, Part::EmptySlab), kUnit);
    EXPECT_EQ(part(snapshot, Part::Live), 86 * kObject + 50'000 + (5 << 20)) << "huge: touched less than asked for";
    EXPECT_EQ(part(snapshot, Part::InternalFragmentation), 2 * kUnit - 50'000);
    EXPECT_EQ(part(snapshot, Part::Retained), kUnit + (1 << 20));
    EXPECT_EQ(part(snapshot, Part::Metadata), 12 << 10);
    double heap_resident = 6 * kUnit + (6 << 20) + (12 << 10);
    EXPECT_EQ(snapshot.gauge(Metric::kHeapResidentBytes, 0), heap_resident + part(snapshot, Part::Telemetry));
    EXPECT_EQ(snapshot.gauge(Metric::kFragmentationBytes, static_cast<uint32_t>(Fragmentation::External)),
              part(snapshot, Part::SlabFree) + part(snapshot, Part::EmptySlab) + part(snapshot, Part::Retained));
    EXPECT_EQ(snapshot.gauge(Metric::kHugeLive, 0), 1);
    EXPECT_EQ(snapshot.gauge(Metric::kHugeLiveBytes, 0), 8 << 20);
    EXPECT_TRUE(std::isnan(part(snapshot, Part::Outside))) << "not asked for, so not shown";
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, WhatIsResidentOfThePrivateHeapIsTelemetrys) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    Mapping heap(64 << 20, 3 << 20);
    Mapping stack(1 << 20, 20 << 10);
    set_serving_stack(stack.address(), stack.bytes());
    double without = part(publish_and_read(Depth::Heap), Part::Telemetry);
    fake_heap.private_range = {heap.address(), heap.bytes()};
    EXPECT_EQ(part(publish_and_read(Depth::Heap), Part::Telemetry), without + (3 << 20));
    double measured = part(publish_and_read(Depth::Process), Part::Telemetry);
    EXPECT_GE(measured, (3 << 20) + (20 << 10));
    EXPECT_EQ(part(publish_and_read(Depth::Heap), Part::Telemetry), std::max(measured, without + (3 << 20)));
    EXPECT_EQ(madvise(reinterpret_cast<void*>(heap.address() + (1 << 20)), 2 << 20, MADV_DONTNEED), 0);
    EXPECT_EQ(part(publish_and_read(Depth::Heap), Part::Telemetry), std::max(measured, without + (3 << 20)) - (2 << 20))
        << "what the heap gave back is known without an account";
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, PagesTheProgramNeverTouchedAreNotResident) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    Mapping superslab(kSuperslabBytes, 0);
    superslab.touch(0, 3 * 4096);
    fake_heap.superslabs = {
        {superslab.address(), kSuperslabBytes, metrics::SuperslabState::Active, ~uint64_t{1}, 0, kUnitBytes}};
    fake_heap.slabs[superslab.address()] = {slab(superslab, 0, SlabState::Current, 64, 64)};
    Snapshot snapshot = publish_and_read(Depth::Heap);
    EXPECT_EQ(part(snapshot, Part::Live), 3 * 4096);
    EXPECT_EQ(part(snapshot, Part::SlabFree), 0);
    EXPECT_EQ(snapshot.gauge(Metric::kLiveBytes, kClass), 64 * kObject) << "what the program holds all the same";
  });
  EXPECT_EQ(child.status, 0);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr double kTolerance = 2 << 20;

TEST(Publisher, ThePartsAddUpToTheProcess) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    KnownHeap heap;
    Mapping outside(64 << 20, 40 << 20);
    Snapshot snapshot = publish_and_read(Depth::Process);
    EXPECT_NEAR(snapshot.gauge(Metric::kResidentUnexplained, 0), 0, kTolerance);
    EXPECT_GT(part(snapshot, Part::Outside), 40 << 20);
    EXPECT_LT(part(snapshot, Part::Outside), 60 << 20);
    double sum = snapshot.gauge(Metric::kResidentUnexplained, 0);
    for (uint32_t i = 0; i < metrics::kCountOf<Part>; ++i) sum += part(snapshot, static_cast<Part>(i));
    EXPECT_EQ(sum, snapshot.gauge(Metric::kProcessResidentBytes, 0));
    Rollup rollup;
    ASSERT_TRUE(read_rollup(&rollup));
    EXPECT_NEAR(snapshot.gauge(Metric::kProcessResidentBytes, 0), static_cast<double>(rollup.resident), kTolerance);
  });
  EXPECT_EQ(child.status, 0);
}

// The account must not explain what it does not know: 50 MiB of the
// allocator's, which no superslab, mapping or metadata of its view mentions.
TEST(Publisher, FiftyMebibytesHiddenFromTheAccountAreUnexplained) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    KnownHeap heap;
    Mapping hidden(64 << 20, 50 << 20);
    fake_heap.reservations.push_back({hidden.address(), hidden.bytes()});
    Snapshot snapshot = publish_and_read(Depth::Process);
    EXPECT_NEAR(snapshot.gauge(Metric::kResidentUnexplained, 0), 50 << 20, kTolerance);
  });
  EXPECT_EQ(child.status, 0);
}
#endif

// So many superslabs that in each walk only some are asked; all at one address.
class ManySuperslabs {
 public:
  static constexpr uint32_t kCount = 5000;
  static constexpr double kBytes = double{kSuperslabBytes} * kCount;

  ManySuperslabs() : superslab_(kSuperslabBytes, kSuperslabBytes) {
    for (uint32_t i = 0; i < kCount; ++i)
      fake_heap.superslabs.push_back(
          {superslab_.address(), kSuperslabBytes, metrics::SuperslabState::Active, kFree, kFree, kUnitBytes, i});
    fake_heap.slabs[superslab_.address()] = {slab(superslab_, 0, SlabState::Current, 64, 64)};
    // The last one stands elsewhere.
    fake_heap.superslabs.back().address = last_.address();
    fake_heap.slabs[last_.address()] = {slab(last_, 0, SlabState::Current, 64, 64)};
  }
  // None of these changes what the view says.
  void drop_half() { madvise(reinterpret_cast<void*>(superslab_.address()), kSuperslabBytes / 2, MADV_DONTNEED); }
  void touch_last() { last_.touch(0, kSuperslabBytes); }

  // Of all but the last.
  void use(uint32_t objects) { fake_heap.slabs[superslab_.address()][0].used = objects; }
  static void mark() {
    for (metrics::SuperslabView& view : fake_heap.superslabs) view.changed_in = fake_heap.look;
  }

  metrics::SuperslabView& last() { return fake_heap.superslabs.back(); }
  metrics::SlabView& slab_of_last() { return fake_heap.slabs[last_.address()][0]; }

 private:
  static constexpr uint64_t kFree = ~uint64_t{1};

  Mapping superslab_;
  Mapping last_{kSuperslabBytes};
};

double resident_heap() {
  Snapshot snapshot = publish_and_read(Depth::Heap);
  return snapshot.gauge(Metric::kHeapResidentBytes, 0) - part(snapshot, Part::Telemetry);
}

TEST(Publisher, OfManySuperslabsEachIsAskedInItsTurn) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    ManySuperslabs many;
    double whole = resident_heap();
    EXPECT_EQ(whole, many.kBytes - kSuperslabBytes) << "each was asked when it was new";
    many.drop_half();
    double next = resident_heap();
    EXPECT_LT(next, whole - many.kBytes / 100) << "a part was asked again";
    EXPECT_GT(next, whole - many.kBytes / 10) << "and no large one";
    for (int i = 0; i < 40; ++i) resident_heap();
    EXPECT_LT(resident_heap(), whole - 0.49 * many.kBytes) << "all had their turns";
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, OfManySuperslabsOneThatChangedIsAskedAtOnce) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    ManySuperslabs many;
    double before = resident_heap();
    many.touch_last();
    EXPECT_EQ(resident_heap(), before) << "the test means to ask the last one when it has no turn";
    many.last().free_units_mask = many.last().dirty_units_mask = ~uint64_t{3};
    EXPECT_EQ(resident_heap(), before + kSuperslabBytes - kUnit) << "and the second unit belongs to no slab";
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, OfManySuperslabsOneWhereMoreWasCarvedIsAskedNext) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    ManySuperslabs many;
    many.slab_of_last().carved = many.slab_of_last().used = 10;
    double before = resident_heap();
    many.touch_last();
    many.slab_of_last().carved = many.slab_of_last().used = 60;
    EXPECT_EQ(resident_heap(), before);
    EXPECT_EQ(resident_heap(), before + kSuperslabBytes);
  });
  EXPECT_EQ(child.status, 0);
}

double live_objects() { return publish_and_read(Depth::Heap).gauge(Metric::kLiveObjects, kClass); }

TEST(Publisher, OfManySuperslabsThoseThatAreNotMarkedAreReadInTheirTurn) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    fake_heap.look = 10;
    ManySuperslabs many;
    constexpr double kOthers = ManySuperslabs::kCount - 1;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(live_objects(), 64 * kOthers + 64);
    many.use(32);
    double next = live_objects();
    EXPECT_LT(next, 64 * kOthers) << "some had their turn";
    EXPECT_GT(next, 62 * kOthers) << "and no more";
    many.mark();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(live_objects(), 32 * kOthers + 64);
    many.mark();
    EXPECT_EQ(live_objects(), 32 * kOthers + 64);
    many.use(16);
    EXPECT_EQ(live_objects(), 16 * kOthers + 64) << "a mark may stand for a change that is seen a look later";
    for (int i = 0; i < 3; ++i) EXPECT_EQ(live_objects(), 16 * kOthers + 64);
    fake_heap.superslabs.resize(1000);
    EXPECT_EQ(live_objects(), 16 * 1000) << "others are not mapped any more";
    forget_parent();
    EXPECT_EQ(live_objects(), 16 * 1000) << "a forked child adds up anew";
    for (int i = 0; i < 30; ++i) EXPECT_EQ(live_objects(), 16 * 1000);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, FiguresThatCannotBeAreClamped) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    Mapping superslab(kSuperslabBytes, kUnitBytes);
    fake_heap.superslabs = {
        {superslab.address(), kSuperslabBytes, metrics::SuperslabState::Active, ~uint64_t{1}, 0, kUnitBytes}};
    // Read while their owners changed them: more used than carved, more cached than used.
    fake_heap.slabs[superslab.address()] = {slab(superslab, 0, SlabState::Current, 10, 40)};
    metrics::ThreadCacheView cache{};
    cache.listed[kClass] = 1'000'000;
    fake_heap.threads = {cache};
    metrics::count<Metric::kRequestsObserved>(0, kClass, uint64_t{1});
    metrics::count<Metric::kRequestedBytesObserved>(0, kClass, uint64_t{1} << 40);
    Snapshot snapshot = publish_and_read(Depth::Heap);
    for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
      const metrics::MetricShape& shape = metrics::kShapes[i];
      if (shape.storage != metrics::Storage::Publish || shape.kind != metrics::Kind::Gauge) continue;
      for (uint32_t slot = 0; slot < shape.slots(); ++slot) {
        double value = snapshot.gauge(static_cast<Metric>(i), slot);
        EXPECT_FALSE(value < 0) << metrics::kTexts[i].name << " " << value;
      }
    }
    EXPECT_EQ(snapshot.gauge(Metric::kLiveObjects, kClass), 0);
  });
  EXPECT_EQ(child.status, 0);
}

TEST(Publisher, ATotalThatLagsIsFoundOut) {
  constexpr uint64_t kMebibyte = 1 << 20;
  EXPECT_FALSE(is_off(100 * kMebibyte, 100 * kMebibyte));
  EXPECT_FALSE(is_off(100 * kMebibyte, 102 * kMebibyte));
  EXPECT_FALSE(is_off(102 * kMebibyte, 100 * kMebibyte));
  EXPECT_TRUE(is_off(100 * kMebibyte, 103 * kMebibyte));
  EXPECT_TRUE(is_off(103 * kMebibyte, 100 * kMebibyte));
  EXPECT_FALSE(is_off(100 * kMebibyte, 0)) << "no exact figure can be had";
}

// A thread that publishes may lose its processor for long.
TEST(Publisher, AScrapeThatCannotMeasureShowsWhatWasMeasuredBefore) {
  TemporaryFolder folder;
  ChildResult result = in_child({{"HAKMEM_PAGES", folder.path()}}, [] {
    size_t bytes = 0;
    EXPECT_EQ(refresh_page(&bytes), nullptr) << "there is no page yet";
    create_page(true, true);
    const PageHeader* measured = refresh_page(&bytes);
    ASSERT_NE(measured, nullptr);
    ASSERT_TRUE(acquire_page());
    size_t bytes_again = 0;
    EXPECT_EQ(refresh_page(&bytes_again), measured);
    EXPECT_EQ(bytes_again, bytes);
    release_page();
    Snapshot snapshot;
    EXPECT_TRUE(read_snapshot(measured, bytes, &snapshot).good());
  });
  EXPECT_EQ(result.status, 0) << result.error_text;
}

TEST(Publisher, LocksAreCopied) {
  ChildResult child = in_child({}, [] {
    create_page(false, true);
    fake_heap.locks[static_cast<size_t>(metrics::Lock::Huge)] = {11, 7, 3'000'000'000};
    Snapshot snapshot = publish_and_read(Depth::Heap);
    auto lock = static_cast<uint32_t>(metrics::Lock::Huge);
    EXPECT_EQ(snapshot.counter(Metric::kLockAcquisitions, lock), 11u);
    EXPECT_EQ(snapshot.counter(Metric::kLockWaits, lock), 7u);
    EXPECT_EQ(snapshot.counter(Metric::kLockWaitTime, lock), 3'000'000'000u);
  });
  EXPECT_EQ(child.status, 0);
}

}  // namespace
}  // namespace hakmem::telemetry
