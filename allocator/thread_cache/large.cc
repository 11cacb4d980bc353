#include "allocator/thread_cache/large.h"

#include <errno.h>

#include "allocator/base/message.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/private_thread.h"
#include "allocator/thread_cache/sampling.h"

namespace hakmem {
namespace {

// Bin of a size above kMaxTableBytes, in words, by (size + 127) / 128: all
// classes there are multiples of it.
constexpr size_t kCoarseStep = kMaxTableBytes / 8;
constexpr size_t kMaxCoarseBytes = 32 * kKiB;
constexpr auto kCoarseTable = [] {
  std::array<uint8_t, kMaxCoarseBytes / kCoarseStep + 1> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint8_t>(size_class_of(i * kCoarseStep) * kBinWords);
  return table;
}();

// More than a process can have; refused before anything is given back for it.
constexpr size_t kMaxAddressBytes = size_t{1} << 47;

LargeAllocation allocate_units(size_t bytes, size_t alignment, uint32_t shard) {
  uint32_t step = alignment <= kUnitBytes ? 1 : static_cast<uint32_t>(alignment / kUnitBytes);
  Slab* slab = heap.take_span(span_units(bytes), SlabState::Large, metrics::kLargeClass, shard, step);
  if (slab == nullptr) return {nullptr, false};
  slab->requested_bytes = bytes;
  slab->owner.store(owner::kLarge, std::memory_order_release);
  slab->superslab->mark_changed();
  return {reinterpret_cast<void*>(slab->start), slab->zeroed};
}

LargeAllocation allocate_huge(size_t bytes, size_t alignment, uint32_t shard) {
  if (bytes > kMaxAddressBytes || alignment > kMaxAddressBytes) return {nullptr, false};
  heap.decay(shard);
  auto [address, zeroed] = heap.allocate_huge(bytes, alignment, shard);
  return {address, zeroed};
}

LargeAllocation allocate_with(ThreadCache* cache, size_t bytes, size_t alignment) {
  look_for_idle(cache);
  bool is_large = bytes <= kMaxLargeBytes && alignment <= kMaxLargeAlignment;
  auto allocate_any = is_large ? allocate_units : allocate_huge;
  LargeAllocation result = allocate_any(bytes, alignment, cache->shard);
  if (result.address == nullptr && release_parked(cache, Parked::kAll))
    result = allocate_any(bytes, alignment, cache->shard);
  if (result.address == nullptr) {
    cache->counters.count<metrics::Metric::kOutOfMemory>();
    errno = ENOMEM;
    return result;
  }
  uint32_t size_class = is_large ? metrics::kLargeClass : metrics::kHugeClass;
  if (sample_large(cache, bytes))
    report_sample(
        {result.address, bytes, align_up(bytes, kPageBytes), bytes, size_class, false, 0, cache->large_doublings});
  cache->counters.add<metrics::Metric::kAllocations>(size_class, 1);
  cache->exact.count_allocation(size_class);
  return result;
}

}  // namespace

LargeAllocation allocate_large(size_t bytes, size_t alignment) {
  ThreadCache* cache = current_cache();
  if (cache == nullptr) {
    if (void* block = allocate_private(bytes, alignment); block != nullptr) return {block, false};
    LateCacheScope late;
    return allocate_with(thread_state.cache, bytes, alignment);
  }
  return metrics::slow_call(cache->counters, cache->shard, metrics::SlowCall::Malloc, [=] {
    LargeAllocation result = allocate_with(cache, bytes, alignment);
    call_transition_hook(result.address == nullptr ? 0 : bytes);
    return result;
  });
}

void* allocate_above_table(size_t bytes) {
  if (bytes <= kMaxCoarseBytes)
    return allocate_from(thread_state.cache, kCoarseTable[(bytes + kCoarseStep - 1) / kCoarseStep], bytes);
  if (bytes > kMaxClassBytes) return allocate_large(bytes, kBlockAlignment).address;
  return allocate_from(thread_state.cache, size_class_of(bytes) * kBinWords, bytes);
}

void free_large(Slab* slab, void* address, uint32_t shard) {
  if (reinterpret_cast<uintptr_t>(address) != slab->start) return report_misuse(Message::kInvalidPointer, address);
  thread_state.cache->exact.count_free(metrics::kLargeClass);
  report_sample_free(address);
  if constexpr (has(Mitigation::kZeroOnFree)) clear_pages<SystemMemory>(address, span_bytes(slab->units));
  heap.superslabs.give_span(slab, shard);
  heap.decay(shard);
}

void free_huge(void* address, uint32_t shard) {
  report_sample_free(address);
  if (!heap.huge.free(address, shard)) return report_misuse(heap.misuse_of(address), address);
  thread_state.cache->exact.count_free(metrics::kHugeClass);
  heap.decay(shard);
}

}  // namespace hakmem
