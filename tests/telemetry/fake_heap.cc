#include "tests/telemetry/fake_heap.h"

#include <gtest/gtest.h>

namespace hakmem::telemetry {
namespace {

template <class List, class View>
void visit_all(const List& list, void (*visit)(void*, const View&), void* context) {
  for (const View& view : list) visit(context, view);
}

}  // namespace

FakeHeap fake_heap;

// Room around it, or the kernel would join it with other mappings of the test.
Mapping::Mapping(size_t bytes, size_t touched) : bytes_(bytes) {
  void* area = mmap(nullptr, bytes + 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) abort();
  address_ = static_cast<char*>(area) + 4096;
  mprotect(address_, bytes, PROT_READ | PROT_WRITE);
  madvise(address_, bytes, MADV_NOHUGEPAGE);
  touch(0, touched);
}

Mapping::~Mapping() { munmap(address_ - 4096, bytes_ + 2 * 4096); }

void Mapping::touch(size_t offset, size_t bytes) {
  for (size_t i = offset; i < offset + bytes; i += 4096) static_cast<volatile char*>(address_)[i] = 1;
}

}  // namespace hakmem::telemetry

namespace hakmem::metrics {

using telemetry::fake_heap;

const HeapView heap_view{
    [](uint32_t size_class) { return telemetry::fake_class_bytes(size_class); },
    [] { return ++fake_heap.look; },
    [](void (*visit)(void*, const SuperslabView&), void* context) {
      telemetry::visit_all(fake_heap.superslabs, visit, context);
    },
    [](uintptr_t superslab, void (*visit)(void*, const SlabView&), void* context) {
      telemetry::visit_all(fake_heap.slabs[superslab], visit, context);
    },
    [](uintptr_t address, SlabView* view) {
      for (const auto& [superslab, slabs] : fake_heap.slabs)
        for (const SlabView& slab : slabs)
          if (address - slab.address < slab.bytes) {
            *view = slab;
            return true;
          }
      return false;
    },
    [](void (*visit)(void*, const HugeView&), void* context) { telemetry::visit_all(fake_heap.huge, visit, context); },
    [](void (*visit)(void*, const ThreadCacheView&), void* context) {
      telemetry::visit_all(fake_heap.threads, visit, context);
    },
    [](void (*visit)(void*, const RangeView&), void* context) {
      telemetry::visit_all(fake_heap.reservations, visit, context);
    },
    [](void (*visit)(void*, const RangeView&), void* context) {
      telemetry::visit_all(fake_heap.metadata, visit, context);
    },
    [](Lock lock) { return fake_heap.locks[static_cast<size_t>(lock)]; },
    [](size_t used) { return fake_heap.hold_back + used / 10; },
    [](size_t used) { return fake_heap.hold_back + used / 10; },
    [] {},
    [] { return fake_heap.private_range; },
    [] {},
};

}  // namespace hakmem::metrics
