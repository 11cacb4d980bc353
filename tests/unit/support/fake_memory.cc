#include "tests/unit/support/fake_memory.h"

#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

#include "allocator/base/bits.h"

namespace hakmem::test {
namespace {

constexpr size_t kCalls = static_cast<size_t>(Call::kCount);

struct Failure {
  uint64_t first = 0;  // number of the first call that is refused; 0: none
  uint64_t times = 0;
};

// All of it under `mutex`.
struct State {
  uint64_t calls[kCalls] = {};
  uint64_t refusals[kCalls] = {};
  Failure failures[kCalls];
  size_t limit = SIZE_MAX;
  size_t largest_reservation = SIZE_MAX;
  bool move_at_remap = false;
  std::map<uintptr_t, size_t> reserved, mapped;
  std::set<uintptr_t> committed_pages;
};

std::mutex mutex;
State* state = nullptr;

// Counts the call; true when it is to be refused.
bool refuses(Call call) {
  if (state == nullptr) {
    ADD_FAILURE() << "FakeMemory used without a FakeKernel";
    return true;
  }
  size_t kind = static_cast<size_t>(call);
  uint64_t number = ++state->calls[kind];
  const Failure& failure = state->failures[kind];
  bool refused = failure.first != 0 && number >= failure.first && number - failure.first < failure.times;
  if (refused) ++state->refusals[kind];
  return refused;
}

// Whether [address, address + bytes) lies within one entry of `ranges`.
bool lies_within(const std::map<uintptr_t, size_t>& ranges, uintptr_t address, size_t bytes) {
  auto after = ranges.upper_bound(address);
  if (after == ranges.begin()) return false;
  auto range = std::prev(after);
  return address + bytes <= range->first + range->second;
}

// Takes [address, address + bytes) out of the entry that it lies within.
void cut(std::map<uintptr_t, size_t>& ranges, uintptr_t address, size_t bytes) {
  auto range = std::prev(ranges.upper_bound(address));
  uintptr_t range_end = range->first + range->second;
  range->second = address - range->first;  // what stays below
  if (address + bytes < range_end) ranges[address + bytes] = range_end - address - bytes;
  if (range->second == 0) ranges.erase(range);
}

}  // namespace

void* FakeMemory::reserve(size_t bytes, size_t alignment, uintptr_t hint) {
  std::lock_guard guard(mutex);
  if (refuses(Call::kReserve) || bytes > state->largest_reservation) return nullptr;
  void* address = LinuxMemory::reserve(bytes, alignment, hint);
  if (address != nullptr) state->reserved[reinterpret_cast<uintptr_t>(address)] = bytes;
  return address;
}

bool FakeMemory::commit(void* address, size_t bytes) {
  std::lock_guard guard(mutex);
  uintptr_t start = reinterpret_cast<uintptr_t>(address);
  if (refuses(Call::kCommit)) return false;
  EXPECT_TRUE(lies_within(state->reserved, start, bytes)) << "commit outside of a reservation";
  if (!LinuxMemory::commit(address, bytes)) return false;
  for (size_t offset = 0; offset < bytes; offset += kPageBytes) state->committed_pages.insert(start + offset);
  return true;
}

bool FakeMemory::allow_reading(void* address, size_t bytes) {
  std::lock_guard guard(mutex);
  if (refuses(Call::kAllowReading)) return false;
  EXPECT_TRUE(lies_within(state->reserved, reinterpret_cast<uintptr_t>(address), bytes))
      << "access outside of a reservation";
  return LinuxMemory::allow_reading(address, bytes);
}

void FakeMemory::allow_huge_pages(void* address, size_t bytes, bool allowed) {
  std::lock_guard guard(mutex);
  uintptr_t start = reinterpret_cast<uintptr_t>(address);
  EXPECT_TRUE(lies_within(state->reserved, start, bytes) || lies_within(state->mapped, start, bytes))
      << "huge pages where nothing is mapped";
  LinuxMemory::allow_huge_pages(address, bytes, allowed);
}

bool FakeMemory::purge(void* address, size_t bytes) {
  std::lock_guard guard(mutex);
  if (refuses(Call::kPurge)) return false;
  uintptr_t start = reinterpret_cast<uintptr_t>(address);
  EXPECT_TRUE(lies_within(state->reserved, start, bytes) || lies_within(state->mapped, start, bytes))
      << "purge of what is not mapped";
  return LinuxMemory::purge(address, bytes);
}

bool FakeMemory::guard(void* address, size_t bytes) { return LinuxMemory::guard(address, bytes); }

void FakeMemory::unguard(void* address, size_t bytes) { LinuxMemory::unguard(address, bytes); }

void FakeMemory::release(void* address, size_t bytes) {
  std::lock_guard guard(mutex);
  refuses(Call::kRelease);  // only counted
  uintptr_t start = reinterpret_cast<uintptr_t>(address);
  for (auto* ranges : {&state->reserved, &state->mapped}) {
    if (!lies_within(*ranges, start, bytes)) continue;
    cut(*ranges, start, bytes);
    state->committed_pages.erase(state->committed_pages.lower_bound(start),
                                 state->committed_pages.lower_bound(start + bytes));
    LinuxMemory::release(address, bytes);
    return;
  }
  ADD_FAILURE() << "release of what is not mapped";
}

void* FakeMemory::map(size_t bytes, size_t alignment) {
  std::lock_guard guard(mutex);
  if (refuses(Call::kMap)) return nullptr;
  void* address = LinuxMemory::map(bytes, alignment);
  if (address != nullptr) state->mapped[reinterpret_cast<uintptr_t>(address)] = bytes;
  return address;
}

bool FakeMemory::map_at(void* address, size_t bytes) {
  std::lock_guard guard(mutex);
  if (refuses(Call::kMapAt) || !LinuxMemory::map_at(address, bytes)) return false;
  state->mapped[reinterpret_cast<uintptr_t>(address)] = bytes;
  return true;
}

void* FakeMemory::remap(void* address, size_t old_bytes, size_t new_bytes) {
  std::lock_guard guard(mutex);
  if (refuses(Call::kRemap)) return nullptr;
  uintptr_t start = reinterpret_cast<uintptr_t>(address);
  auto& ranges = lies_within(state->mapped, start, old_bytes) ? state->mapped : state->reserved;
  if (!lies_within(ranges, start, old_bytes)) {
    ADD_FAILURE() << "remap of what is not mapped";
    return nullptr;
  }
  void* moved = nullptr;
  if (state->move_at_remap) {
    moved = LinuxMemory::map(new_bytes, kPageBytes);
    if (moved == nullptr) return nullptr;
    memcpy(moved, address, std::min(old_bytes, new_bytes));
    LinuxMemory::release(address, old_bytes);
  } else {
    moved = LinuxMemory::remap(address, old_bytes, new_bytes);
    if (moved == nullptr) return nullptr;
  }
  cut(ranges, start, old_bytes);
  state->committed_pages.erase(state->committed_pages.lower_bound(start),
                               state->committed_pages.lower_bound(start + old_bytes));
  state->mapped[reinterpret_cast<uintptr_t>(moved)] = new_bytes;
  return moved;
}

size_t FakeMemory::address_space_limit() {
  std::lock_guard guard(mutex);
  return state->limit;
}

FakeKernel::FakeKernel() {
  std::lock_guard guard(mutex);
  EXPECT_EQ(state, nullptr) << "one kernel at a time";
  state = new State;
}

FakeKernel::~FakeKernel() {
  std::lock_guard guard(mutex);
  for (auto* ranges : {&state->reserved, &state->mapped})
    for (auto [address, bytes] : *ranges) LinuxMemory::release(reinterpret_cast<void*>(address), bytes);
  delete state;
  state = nullptr;
}

void FakeKernel::fail(Call call, uint64_t nth, uint64_t times) {
  std::lock_guard guard(mutex);
  size_t kind = static_cast<size_t>(call);
  state->failures[kind] = {state->calls[kind] + nth, times};
}

void FakeKernel::fail_always(Call call) { fail(call, 1, UINT64_MAX); }

void FakeKernel::recover() {
  std::lock_guard guard(mutex);
  for (Failure& failure : state->failures) failure = {};
}

uint64_t FakeKernel::calls(Call call) const {
  std::lock_guard guard(mutex);
  return state->calls[static_cast<size_t>(call)];
}

uint64_t FakeKernel::refusals(Call call) const {
  std::lock_guard guard(mutex);
  return state->refusals[static_cast<size_t>(call)];
}

void FakeKernel::set_address_space_limit(size_t bytes) {
  std::lock_guard guard(mutex);
  state->limit = bytes;
}

void FakeKernel::refuse_reservations_above(size_t bytes) {
  std::lock_guard guard(mutex);
  state->largest_reservation = bytes;
}

void FakeKernel::move_at_remap(bool move) {
  std::lock_guard guard(mutex);
  state->move_at_remap = move;
}

size_t FakeKernel::mapped_bytes() const {
  std::lock_guard guard(mutex);
  size_t sum = 0;
  for (auto [address, bytes] : state->mapped) sum += bytes;
  return sum;
}

size_t FakeKernel::reserved_bytes() const {
  std::lock_guard guard(mutex);
  size_t sum = 0;
  for (auto [address, bytes] : state->reserved) sum += bytes;
  return sum;
}

size_t FakeKernel::committed_bytes() const {
  std::lock_guard guard(mutex);
  return state->committed_pages.size() * kPageBytes;
}

bool FakeKernel::is_committed(uintptr_t address) const {
  std::lock_guard guard(mutex);
  return state->committed_pages.contains(align_down(address, kPageBytes));
}

}  // namespace hakmem::test
