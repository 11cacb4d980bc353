#include "tests/unit/support/shadow_heap.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>

#include "allocator/api/allocator.h"
#include "allocator/platform/clock.h"
#include "allocator/shared_pool/heap.h"

namespace hakmem::test {
namespace {

constexpr int kErrno = 4321;  // success and every free keep errno

unsigned char byte_at(size_t offset, uint64_t tag) {
  return static_cast<unsigned char>(tag + offset * 131 + (offset >> 8));
}

// Calls visit(first, end) for the parts of a block whose content is kept.
template <class Visit>
void visit_parts(size_t bytes, Visit visit) {
  visit(size_t{0}, std::min(bytes, size_t{1024}));
  for (size_t offset = 1024; offset < bytes; offset += 1024) visit(offset, std::min(bytes, offset + 16));
  if (bytes > 1024) visit(bytes - 64, bytes);
}

}  // namespace

void start_process() {
  heap.decay_clock.is_due(coarse_milliseconds() + 3'600'000);
  hakmem::free(hakmem::allocate(1));
}

void let_a_second_pass() { heap.decay_now(thread_state.cache->shard); }

uint32_t class_of_block(const void* address) {
  const Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(address));
  if (slab == nullptr) return metrics::kHugeClass;
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  if (owner_word == owner::kFree) return metrics::kHugeClass;
  return owner_word == owner::kLarge ? metrics::kLargeClass : slab->size_class;
}

void fill(unsigned char* address, size_t bytes, uint64_t tag) {
  visit_parts(bytes, [&](size_t first, size_t end) {
    for (size_t i = first; i < end; ++i) address[i] = byte_at(i, tag);
  });
}

bool has_content(const unsigned char* address, size_t bytes, size_t filled, uint64_t tag) {
  bool equal = true;
  visit_parts(filled, [&](size_t first, size_t end) {
    for (size_t i = first; i < std::min(end, bytes); ++i) equal &= address[i] == byte_at(i, tag);
  });
  return equal;
}

bool is_zero(const void* address, size_t bytes) {
  const char* content = static_cast<const char*>(address);
  return bytes == 0 || (content[0] == 0 && memcmp(content, content + 1, bytes - 1) == 0);
}

void ShadowHeap::step() {
  uint32_t choice = random_.below(100);
  bool is_full = blocks_.size() >= limits_.max_blocks || bytes_ > limits_.max_bytes;
  if (blocks_.empty() || (choice < 48 && !is_full)) return allocate();
  if (choice < 60 && bytes_ <= limits_.max_bytes) return reallocate();
  free();
}

void ShadowHeap::allocate() {
  size_t bytes = random_.below(50) == 0 ? 0 : random_.log_uniform(limits_.log2_max_bytes);
  size_t alignment = kBlockAlignment;
  void* address = nullptr;
  errno = kErrno;
  switch (random_.below(8)) {
    case 0: {
      size_t count = 1 + random_.below(16);
      address = allocate_zeroed(count, bytes / count);
      bytes = bytes / count * count;
      if (address != nullptr) {
        EXPECT_TRUE(is_zero(address, bytes)) << "calloc of " << bytes;
      }
      break;
    }
    case 1:
      alignment = size_t{1} << random_.below(limits_.log2_max_alignment + 1);
      address = allocate_aligned(alignment, bytes);
      break;
    case 2: address = hakmem::reallocate(nullptr, bytes); break;
    default: address = hakmem::allocate(bytes);
  }
  EXPECT_EQ(errno, kErrno);
  add(address, bytes, std::max(alignment, kBlockAlignment));
}

void ShadowHeap::add(void* address, size_t bytes, size_t alignment) {
  ASSERT_NE(address, nullptr) << bytes;
  ASSERT_EQ(reinterpret_cast<uintptr_t>(address) % alignment, 0u) << bytes;
  size_t usable = usable_bytes(address);
  ASSERT_GE(usable, bytes);
  ShadowBlock block{static_cast<unsigned char*>(address), bytes, random_.next(), class_of_block(address)};
  const unsigned char* end = block.address + usable;
  auto after = ranges_.lower_bound(block.address);
  ASSERT_TRUE(after == ranges_.end() || end <= after->first) << "overlaps the block above";
  ASSERT_TRUE(after == ranges_.begin() || std::prev(after)->second <= block.address) << "overlaps the block below";
  // All that is usable belongs to the caller.
  if (usable > bytes) block.address[usable - 1] = 0xEE;
  fill(block.address, bytes, block.tag);
  ranges_[block.address] = end;
  blocks_.push_back(block);
  bytes_ += bytes;
}

ShadowBlock ShadowHeap::remove(size_t index) {
  ShadowBlock block = blocks_[index];
  EXPECT_TRUE(has_content(block.address, block.bytes, block.bytes, block.tag))
      << "content lost, " << block.bytes << " bytes";
  blocks_[index] = blocks_.back();
  blocks_.pop_back();
  ranges_.erase(block.address);
  bytes_ -= block.bytes;
  return block;
}

void ShadowHeap::reallocate() {
  ShadowBlock block = remove(random_.below(static_cast<uint32_t>(blocks_.size())));
  // Near the old size as often as anywhere; to 0 now and then, which frees.
  size_t bytes = random_.log_uniform(limits_.log2_max_bytes);
  if (random_.below(2) == 0) bytes = block.bytes / 2 + random_.below(static_cast<uint32_t>(block.bytes + 16));
  if (random_.below(40) == 0) bytes = 0;
  errno = kErrno;
  void* address = hakmem::reallocate(block.address, bytes);
  EXPECT_EQ(errno, kErrno);
  if (bytes == 0) {
    EXPECT_EQ(address, nullptr);
    return;
  }
  ASSERT_NE(address, nullptr);
  EXPECT_TRUE(has_content(static_cast<unsigned char*>(address), std::min(bytes, block.bytes), block.bytes, block.tag))
      << "realloc of " << block.bytes << " to " << bytes;
  add(address, bytes, kBlockAlignment);
}

void ShadowHeap::free() {
  ShadowBlock block = remove(random_.below(static_cast<uint32_t>(blocks_.size())));
  errno = kErrno;
  hakmem::free(block.address);
  EXPECT_EQ(errno, kErrno);
}

void ShadowHeap::free_all() {
  while (!blocks_.empty()) free();
}

void ShadowHeap::count_live(LiveCounts& counts) const {
  for (const ShadowBlock& block : blocks_) ++counts[block.size_class];
}

ShadowBlock ShadowHeap::give() { return remove(random_.below(static_cast<uint32_t>(blocks_.size()))); }

void ShadowHeap::take(const ShadowBlock& block) {
  const unsigned char* end = block.address + usable_bytes(block.address);
  auto after = ranges_.lower_bound(block.address);
  EXPECT_TRUE(after == ranges_.end() || end <= after->first);
  EXPECT_TRUE(after == ranges_.begin() || std::prev(after)->second <= block.address);
  ranges_[block.address] = end;
  blocks_.push_back(block);
  bytes_ += block.bytes;
}

}  // namespace hakmem::test
