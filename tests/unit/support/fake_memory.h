// A kernel for tests: it really maps, but counts its calls, keeps a book of
// what is mapped and committed, and refuses when it is told to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/platform/virtual_memory.h"

namespace hakmem::test {

enum class Call : uint8_t { kReserve, kCommit, kAllowReading, kPurge, kRelease, kMap, kMapAt, kRemap, kCount };

// The VirtualMemory that the floors under test are instantiated with. Thread-safe.
struct FakeMemory {
  static void* reserve(size_t bytes, size_t alignment, uintptr_t hint);
  static bool commit(void* address, size_t bytes);
  static bool allow_reading(void* address, size_t bytes);
  static bool purge(void* address, size_t bytes);
  static void allow_huge_pages(void* address, size_t bytes, bool allowed);
  static bool guard(void* address, size_t bytes);
  static void unguard(void* address, size_t bytes);
  static void release(void* address, size_t bytes);
  static void* map(size_t bytes, size_t alignment);
  static bool map_at(void* address, size_t bytes);
  static void* remap(void* address, size_t old_bytes, size_t new_bytes);
  static size_t address_space_limit();
};

static_assert(VirtualMemory<FakeMemory>);

// Controls FakeMemory for the time of one test, and unmaps all of it at the end.
class FakeKernel {
 public:
  FakeKernel();
  ~FakeKernel();
  FakeKernel(const FakeKernel&) = delete;
  FakeKernel& operator=(const FakeKernel&) = delete;

  // Refuses the `nth` call of the kind, counted from now (1 is the next), and `times` - 1 after it.
  void fail(Call call, uint64_t nth, uint64_t times = 1);
  void fail_always(Call call);
  void recover();  // refuses nothing any more
  uint64_t calls(Call call) const;
  uint64_t refusals(Call call) const;

  void set_address_space_limit(size_t bytes);
  void refuse_reservations_above(size_t bytes);
  // The block moves at each remap, as if its neighbour were taken.
  void move_at_remap(bool move);

  size_t mapped_bytes() const;  // by map(), map_at() and remap(), not released
  size_t reserved_bytes() const;
  size_t committed_bytes() const;              // of reservations
  bool is_committed(uintptr_t address) const;  // within a reservation
};

}  // namespace hakmem::test
