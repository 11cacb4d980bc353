// What the tests of the superslab heap share: a heap of its own on a kernel for tests.
#pragma once

#include <gtest/gtest.h>
#include <string.h>

#include <memory>
#include <vector>

#include "allocator/superslab/superslab_heap.h"
#include "tests/unit/support/fake_memory.h"

namespace hakmem {

class SuperslabHeapTest : public testing::Test {
 protected:
  using Arena = PageArena<test::FakeMemory>;
  using Superslabs = SuperslabHeap<test::FakeMemory>;

  SuperslabHeapTest() { kernel_.set_address_space_limit(kGiB); }

  Slab* take(uint32_t units) { return heap_.take_span(units, SlabState::Large, metrics::kLargeClass, 0); }
  void give(Slab* slab) { heap_.give_span(slab, 0); }

  // Every committed superslab, in order of address.
  std::vector<Superslab*> superslabs() const {
    std::vector<Superslab*> all;
    for (uint32_t r = 0; r < arena_->reservation_count(); ++r) {
      const Reservation& reservation = arena_->reservation(r);
      auto* slabs = reinterpret_cast<Slab*>(reservation.metadata);
      for (uint32_t i = 0; i < reservation.committed; ++i) all.push_back(slabs[i * kUnitsPerSuperslab].superslab);
    }
    return all;
  }
  size_t dirty_bytes() const {
    size_t bytes = 0;
    for (Superslab* superslab : superslabs()) bytes += Superslab::bytes_of(superslab->dirty);
    return bytes;
  }

  test::FakeKernel kernel_;
  std::unique_ptr<Arena> arena_ = std::make_unique<Arena>();
  Superslabs heap_{*arena_};
};

inline void write_to(Slab* slab, char value) {
  for (size_t offset = 0; offset < span_bytes(slab->units); offset += kPageBytes)
    reinterpret_cast<char*>(slab->start)[offset] = value;
}

inline bool reads_as_zero(uintptr_t address, size_t bytes) {
  const char* content = reinterpret_cast<const char*>(address);
  return content[0] == 0 && memcmp(content, content + 1, bytes - 1) == 0;
}

}  // namespace hakmem
