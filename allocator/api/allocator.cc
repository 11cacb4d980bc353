#include "allocator/api/allocator.h"

#include <errno.h>
#include <string.h>

#include <utility>

#include "allocator/base/message.h"
#include "allocator/base/probe.h"
#include "allocator/metrics/heap_view.h"
#include "allocator/shared_pool/heap.h"
#include "allocator/superslab/superslab_maps.h"
#include "allocator/thread_cache/guard.h"
#include "allocator/thread_cache/internal.h"
#include "allocator/thread_cache/large.h"
#include "allocator/thread_cache/private_thread.h"
#include "allocator/thread_cache/sampling.h"

namespace hakmem {
namespace {

uint32_t current_shard() { return thread_state.cache->shard; }

// Copied without a call into libc.
constexpr size_t kMaxCopiedBytes = 128;

// Copies 16 to 128 bytes, a multiple of 16; see clear_small().
HAKMEM_INLINE void copy_small(void* to, const void* from, size_t bytes) {
  auto* first_to = static_cast<Chunk*>(to);
  auto* end_to = reinterpret_cast<Chunk*>(static_cast<char*>(to) + bytes);
  auto* first = static_cast<const Chunk*>(from);
  auto* end = reinterpret_cast<const Chunk*>(static_cast<const char*>(from) + bytes);
  first_to[0] = first[0];
  end_to[-1] = end[-1];
  if (bytes <= 32) return;
  first_to[1] = first[1];
  end_to[-2] = end[-2];
  if (bytes <= 64) return;
  first_to[2] = first[2];
  first_to[3] = first[3];
  end_to[-3] = end[-3];
  end_to[-4] = end[-4];
}

// What a block gets that grows from `old_bytes` to `bytes`. One that grows by
// little will grow again: with room for a quarter more it is copied half as often.
constexpr size_t with_room_to_grow(size_t bytes, size_t old_bytes) {
  size_t quarter = old_bytes / 4;
  if (bytes - old_bytes >= quarter) [[likely]]  // or it shrinks: then the difference is very large
    return bytes;
  bool is_worth_it = old_bytes >= kMaxTableBytes && old_bytes + quarter <= kMaxClassBytes;
  return is_worth_it ? old_bytes + quarter : bytes;
}

[[gnu::noinline]] void* move_any(void* address, size_t bytes, size_t old_bytes) {
  void* moved = allocate(with_room_to_grow(bytes, old_bytes));
  if (moved == nullptr) return nullptr;
  memcpy(moved, address, old_bytes < bytes ? old_bytes : bytes);
  free(address);
  return moved;
}

// The block that would have been moved to was written to since its free.
HAKMEM_COLD void* move_after(const Block* corrupted, void* address, size_t bytes, size_t old_bytes) {
  report_misuse(Message::kCorruptedFreeList, corrupted);
  return move_any(address, bytes, old_bytes);
}

void* free_to_nothing(void* address) {
  free(address);
  return nullptr;
}

// A block without a class has grown where it is, or was moved by the kernel: what it
// grew by is drawn for, as if it were allocated now.
void sample_growth(void* address, size_t bytes, size_t old_bytes, uint32_t size_class) {
  if constexpr (kBuild.stats) {
    ThreadCache* cache = thread_state.cache;
    if (bytes <= old_bytes || cache == &empty_cache || !sample_large(cache, bytes - old_bytes)) return;
    report_sample(
        {address, bytes, align_up(bytes, kPageBytes), bytes - old_bytes, size_class, true, 0, cache->large_doublings});
  }
}

// Not inlined: the other kinds need none of the registers that it saves.
[[gnu::noinline]] void* reallocate_huge(void* address, size_t bytes) {
  size_t mapped = heap.huge.usable_bytes(address);
  if (mapped == 0) return refuse_misuse(heap.misuse_of(address), address);
  if (bytes > PTRDIFF_MAX) return refuse(ENOMEM);
  if (bytes <= kMaxLargeBytes) return move_any(address, bytes, mapped);
  int saved_errno = errno;
  void* resized = heap.huge.resize(address, bytes, current_shard());
  if (resized == nullptr) {
    if (void* copy = move_any(address, bytes, mapped); copy != nullptr) return copy;
    // What it could have been copied to was taken or given back meanwhile.
    resized = heap.huge.resize(address, bytes, current_shard(), HugeHeap<SystemMemory>::Growth::kNotByCopy);
    if (resized == nullptr) return nullptr;
    errno = saved_errno;
  }
  if (resized != address) HAKMEM_PROBE1(hakmem_free_semaphore, otel_memory, free, address);
  sample_growth(resized, bytes, mapped, metrics::kHugeClass);
  return resized;
}

// A guarded sample, whose bytes end where its request did.
void* reallocate_guarded(void* address, size_t bytes) {
  size_t old_bytes = guarded_bytes(address, "realloc of");
  return old_bytes == kNotLive ? refuse(EINVAL) : move_any(address, bytes, old_bytes);
}

void* reallocate_private(void* address, size_t bytes) {
  size_t old_bytes = private_bytes(address);
  if (old_bytes == 0) return refuse(EINVAL);
  return is_kept(old_bytes, bytes) ? address : move_any(address, bytes, old_bytes);
}

// Grows or shrinks a run of units within what it has, or into free units behind it.
bool resize_large_in_place(Slab* slab, size_t bytes) {
  if (bytes > kMaxLargeBytes || bytes <= kMaxClassBytes) return false;
  if (bytes < slab->units * kUnitBytes / 2) return false;
  if (bytes > span_bytes(slab->units) && !heap.superslabs.extend_span(slab, span_units(bytes))) return false;
  size_t old_bytes = std::exchange(slab->requested_bytes, bytes);
  slab->superslab->mark_changed();
  if constexpr (kBuild.stats) {
    const auto* address = reinterpret_cast<const void*>(slab->start);
    if (metrics::hooks.on_sample_resize != nullptr)
      metrics::hooks.on_sample_resize(address, address, bytes, align_up(bytes, kPageBytes));
  }
  sample_growth(reinterpret_cast<void*>(slab->start), bytes, old_bytes, metrics::kLargeClass);
  return true;
}

// The slab of a live block; null for a huge one, or an address that is not ours.
Slab* slab_of(const void* address, uintptr_t& owner_word) {
  Slab* slab = heap.superslabs.find(reinterpret_cast<uintptr_t>(address));
  if (slab == nullptr) return nullptr;
  owner_word = slab->owner.load(std::memory_order_relaxed);
  // A huge mapping may stand where a superslab was unmapped.
  return owner_word == owner::kFree ? nullptr : slab;
}

// What is wrong with a pointer into a slab or a large allocation; kCount when nothing is.
Message misuse_in(Slab* slab, uintptr_t owner_word, const void* address) {
  auto start = reinterpret_cast<uintptr_t>(address);
  if (owner_word == owner::kLarge) return start == slab->start ? Message::kCount : Message::kInvalidPointer;
  if (!slab->is_block_start(start)) return Message::kInvalidPointer;
  if constexpr (has(Mitigation::kBlockStates))
    return SuperslabMaps::is_live(slab, slab->index_of(start)) ? Message::kCount : Message::kDoubleFree;
  auto* block = static_cast<const Block*>(address);
  return block->looks_free() ? misuse_at_key(slab, block) : Message::kCount;
}

size_t usable_bytes_of(const Slab* slab, uintptr_t owner_word) {
  if (owner_word == owner::kLarge) return align_up(slab->requested_bytes, kPageBytes);
  return slab->shape().block_bytes;
}

}  // namespace

void* refuse(int error) {
  errno = error;
  return nullptr;
}

void* refuse_misuse(Message message, const void* address) {
  report_misuse(message, address);
  return refuse(EINVAL);
}

void* allocate_zeroed_slow(size_t bytes) {
  if (bytes > kMaxClassBytes) {
    auto [address, zeroed] = allocate_large(bytes, kBlockAlignment);
    return address == nullptr || zeroed ? address : memset(address, 0, bytes);
  }
  void* address = allocate(bytes);
  if (has(Mitigation::kZeroOnFree) || address == nullptr) return address;
  return memset(address, 0, bytes);
}

void* move_block(void* address, size_t bytes, size_t old_bytes, Slab* slab) {
  if (static_cast<Block*>(address)->looks_free()) [[unlikely]]
    return move_suspect(address, bytes, old_bytes, slab);
  if (!slab->is_block_start(reinterpret_cast<uintptr_t>(address))) [[unlikely]]
    return refuse_misuse(Message::kInvalidPointer, address);
  if (bytes > old_bytes && bytes <= kMaxTableBytes && old_bytes <= kMaxCopiedBytes) {
    // Small blocks that grow, without a call and what it would have to save.
    ThreadCache* cache = thread_state.cache;
    Block* moved = take_from(cache, cache->bin_table[(bytes + 15) / 16]);
    if (moved != nullptr) [[likely]] {
      if (!take_mark(moved)) [[unlikely]]
        return move_after(moved, address, bytes, old_bytes);
      copy_small(moved, address, old_bytes);
      if (slab->owner.load(std::memory_order_relaxed) == cache->tag()) [[likely]]
        free_owned(cache, slab, static_cast<Block*>(address));
      else
        free_foreign(address, slab);
      return moved;
    }
  }
  return bytes == 0 ? free_to_nothing(address) : move_any(address, bytes, old_bytes);
}

// The block has the free key in it; a live one is left where it is, or moved.
void* move_suspect(void* address, size_t bytes, size_t old_bytes, Slab* slab) {
  Message misuse = misuse_at_key(slab, static_cast<Block*>(address));
  if (misuse != Message::kCount) return refuse_misuse(misuse, address);
  if (is_kept(old_bytes, bytes)) return address;
  return bytes == 0 ? free_to_nothing(address) : move_any(address, bytes, old_bytes);
}

void* reallocate_slow(void* address, size_t bytes) {
  if (address == nullptr) return allocate(bytes);
  if (bytes == 0) return free_to_nothing(address);
  uintptr_t owner_word = 0;
  Slab* slab = slab_of(address, owner_word);
  if (slab == nullptr) {
    if (is_guarded(address)) return reallocate_guarded(address, bytes);
    return is_private(address) ? reallocate_private(address, bytes) : reallocate_huge(address, bytes);
  }
  if (Message misuse = misuse_in(slab, owner_word, address); misuse != Message::kCount) [[unlikely]]
    return refuse_misuse(misuse, address);
  size_t usable = usable_bytes_of(slab, owner_word);
  if (owner_word == owner::kLarge) {
    if (resize_large_in_place(slab, bytes)) return address;
  } else if (is_kept(usable, bytes)) {
    return address;
  }
  return move_any(address, bytes, usable);
}

void* allocate_aligned_slow(size_t alignment, size_t bytes) {
  uint32_t size_class = aligned_class_of(bytes, alignment);
  // The private heap has no classes, by which blocks would be aligned.
  if (size_class < kSizeClassCount && !is_private_thread()) return allocate(kClassShapes[size_class].block_bytes);
  return allocate_large(bytes == 0 ? 1 : bytes, alignment).address;
}

void* allocate_aligned_after(const Block* corrupted, size_t alignment, size_t bytes) {
  report_misuse(Message::kCorruptedFreeList, corrupted);
  return allocate_aligned_slow(alignment, bytes);
}

size_t usable_bytes(const void* address) {
  if (address == nullptr) return 0;
  uintptr_t owner_word = 0;
  if (Slab* slab = slab_of(address, owner_word); slab != nullptr) {
    Message misuse = misuse_in(slab, owner_word, address);
    if (misuse == Message::kCount) [[likely]]
      return usable_bytes_of(slab, owner_word);
    report_misuse(misuse, address);
    return 0;
  }
  if (is_guarded(address)) {
    size_t bytes = guarded_bytes(address, "malloc_usable_size of");
    return bytes == kNotLive ? 0 : bytes;
  }
  if (is_private(address)) return private_bytes(address);
  size_t mapped = heap.huge.usable_bytes(address);
  if (mapped == 0) report_misuse(heap.misuse_of(address), address);
  return mapped;
}

// A block has the size of its class, which rounds up; and realloc() leaves it
// where it is for as long as about half of it is used.
bool check_size(const void* address, size_t alignment, size_t bytes) {
  size_t usable = usable_bytes(address);
  if (usable == 0) return false;  // null, or a misuse that is known by now
  bool is_aligned = is_power_of_two(alignment) && reinterpret_cast<uintptr_t>(address) % alignment == 0;
  size_t least = bytes < alignment ? alignment : bytes;
  if (least > usable) least = usable;
  bool is_tight = is_kept(usable, least) || is_private(address);  // whose chunks are of any size
  if (!is_aligned || bytes > usable || !is_tight) report_misuse(Message::kWrongSize, address);
  return true;
}

bool check_alignment(const void* address, size_t alignment) {
  if (is_power_of_two(alignment) && reinterpret_cast<uintptr_t>(address) % alignment == 0) return true;
  if (usable_bytes(address) == 0) return false;
  report_misuse(Message::kWrongSize, address);
  return true;
}

size_t purge_all() { return heap.superslabs.purge(SIZE_MAX, current_shard()) + heap.huge.purge(current_shard()); }

HeapTotals heap_totals() {
  HeapTotals totals{};
  metrics::heap_view.visit_superslabs(
      [](void* argument, const metrics::SuperslabView& superslab) {
        auto& sums = *static_cast<HeapTotals*>(argument);
        sums.superslab_bytes += superslab.bytes;
        sums.retained_bytes +=
            static_cast<size_t>(__builtin_popcountll(superslab.dirty_units_mask)) * superslab.unit_bytes;
        metrics::heap_view.visit_slabs(
            superslab.address,
            [](void* inner, const metrics::SlabView& slab) {
              auto& slab_sums = *static_cast<HeapTotals*>(inner);
              slab_sums.slabs += 1;
              slab_sums.free_blocks += slab.carved - slab.used;
              slab_sums.used_bytes +=
                  slab.state == SlabState::Large ? slab.requested_bytes : size_t{slab.used} * slab.block_bytes;
            },
            argument);
      },
      &totals);
  // What waits in thread caches is not in use.
  metrics::heap_view.visit_threads(
      [](void* argument, const metrics::ThreadCacheView& cache) {
        auto& sums = *static_cast<HeapTotals*>(argument);
        for (uint32_t i = 0; i < kSizeClassCount; ++i) {
          size_t bytes = size_t{cache.listed[i]} * kClassShapes[i].block_bytes;
          sums.used_bytes -= bytes < sums.used_bytes ? bytes : sums.used_bytes;
          sums.free_blocks += cache.listed[i];
        }
      },
      &totals);
  totals.free_bytes = totals.superslab_bytes > totals.used_bytes ? totals.superslab_bytes - totals.used_bytes : 0;
  metrics::heap_view.visit_huge(
      [](void* argument, const metrics::HugeView& huge) {
        auto& sums = *static_cast<HeapTotals*>(argument);
        if (huge.requested_bytes == 0) {
          sums.retained_bytes += huge.mapping.bytes;
        } else {
          sums.huge_allocations += 1;
          sums.huge_bytes += huge.mapping.bytes;
        }
      },
      &totals);
  totals.used_bytes += totals.huge_bytes;
  return totals;
}

}  // namespace hakmem
