#include "allocator/thread_cache/sampling.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <utility>

#include "allocator/base/message.h"
#include "allocator/base/probe.h"
#include "allocator/metrics/sample_weight.h"
#include "allocator/thread_cache/guard.h"
#include "allocator/thread_cache/internal.h"

namespace hakmem {

HAKMEM_LARGE_DATA constinit SampledSlabs sampled_slabs;

extern "C" {
[[gnu::section(".probes")]] constinit volatile uint16_t hakmem_alloc_semaphore = 0;
[[gnu::section(".probes")]] constinit volatile uint16_t hakmem_free_semaphore = 0;
}

namespace {

// The most that a countdown holds; another follows.
constexpr uint32_t kMaxCountdown = 1u << 30;
// How soon a thread asks again whether sampling is on, or tries again when there was
// no memory for a sample.
constexpr uint32_t kObjectsWhileOff = 1u << 16;
// Samples in a bin beyond which others take the place of blocks: where all is sampled, no end of them is due.
constexpr uint32_t kSamplesAbove = 64;
// Nothing is sampled by then; an int64_t holds it.
constexpr double kMaxBytes = 0x1p62;

constexpr auto kBitsOfOne = std::bit_cast<uint64_t>(1.0);

// Minus the natural logarithm of a uniform number in (0, 1], without libm: good to 1e-5.
double exponential_variate(RandomGenerator& random) {
  uint64_t bits = random.next() | 1;
  uint32_t exponent = log2_floor(bits);
  auto mantissa = std::bit_cast<double>((bits << (63 - exponent) << 1 >> 12) | kBitsOfOne);  // in [1, 2)
  double t = (mantissa - 1) / (mantissa + 1);
  double t2 = t * t;
  double log_mantissa = 2 * t * (1 + t2 * (1.0 / 3 + t2 * (1.0 / 5 + t2 * (1.0 / 7 + t2 / 9))));
  return static_cast<double>(64 - static_cast<int32_t>(exponent)) * 0.6931471805599453 - log_mantissa;
}

// Bytes until the next sample of a Poisson process over allocated bytes; negative: never.
double draw_bytes(ThreadCache* cache, uint32_t doublings) {
  uint64_t interval = metrics::sample_interval(doublings);
  return interval == 0 ? -1 : std::min(exponential_variate(cache->random) * static_cast<double>(interval), kMaxBytes);
}

// Objects before the next sample; when sampling is off, or the sample is too far away,
// before the next draw.
// Rounding an exponential up to objects makes it geometric with
// p = 1 - exp(-class size / mean), as it has to be.
uint32_t draw_objects(ThreadCache* cache, uint32_t size_class) {
  auto& countdown = cache->classes[size_class].countdown;
  countdown.doublings = static_cast<uint8_t>(metrics::sample_doublings.load(std::memory_order_relaxed));
  double bytes = draw_bytes(cache, countdown.doublings);
  double objects = bytes / kClassShapes[size_class].block_bytes;
  countdown.is_sampling = bytes >= 0 && objects < kMaxCountdown;
  if (bytes < 0) return kObjectsWhileOff;
  return objects < kMaxCountdown ? static_cast<uint32_t>(objects) : kMaxCountdown;
}

// Whether a sample of so many bytes that was drawn with one interval is one with a longer one, too: so many of those
// drawn are as there would have been.
bool is_sample_still(ThreadCache* cache, uint64_t bytes, uint32_t drawn_with, uint32_t doublings) {
  if (doublings == drawn_with) return true;
  auto kept = static_cast<double>(metrics::sample_weight(bytes, metrics::sample_interval(drawn_with)));
  auto all = static_cast<double>(metrics::sample_weight(bytes, metrics::sample_interval(doublings)));
  return static_cast<double>(cache->random.next()) * 0x1p-64 * all < kept;
}

// The countdown has ended: begins the next, after the block that comes now. Whether
// that is a sample.
bool draw(ThreadCache* cache, uint32_t size_class) {
  auto& countdown = cache->classes[size_class].countdown;
  bool is_due = countdown.is_sampling;
  uint32_t drawn_with = countdown.doublings;
  uint32_t objects = draw_objects(cache, size_class);
  if (!is_due) {  // nothing was drawn for this block: the draw is for it too
    is_due = objects == 0;
    objects = is_due ? draw_objects(cache, size_class) : objects - 1;
    drawn_with = countdown.doublings;
  }
  countdown.until_sample += 1 + objects;
  if (!is_due || !are_samples_wanted()) return false;
  // Where the interval became shorter it stands for more than those drawn from now on. Those that wait in the bin are
  // told alike, as the first of them was drawn: with a longer interval as a rule, or they will soon be gone.
  uint32_t doublings = std::max(drawn_with, uint32_t{countdown.doublings});
  if (countdown.samples != 0) doublings = std::max(doublings, uint32_t{countdown.samples_doublings});
  if (!is_sample_still(cache, kClassShapes[size_class].block_bytes, drawn_with, doublings)) return false;
  if (countdown.samples == 0) countdown.samples_doublings = static_cast<uint8_t>(doublings);
  return true;
}

void* place_sample(ThreadCache* cache, uint32_t size_class) {
  SlabList& part_full = sampled_slabs.part_full[size_class];
  Block* block = nullptr;
  bool was_freed = false;
  {
    LockGuard guard(sampled_slabs.lock);
    Slab* slab = part_full.first();
    if (slab == nullptr) {
      slab = heap.superslabs.take_span(kClassShapes[size_class].units, SlabState::Sampled, size_class, cache->shard);
      if (slab == nullptr) return nullptr;
      slab->owner.store(owner::kSampled, std::memory_order_relaxed);
      part_full.push_front(slab);
    }
    was_freed = slab->listed() != 0;
    if (was_freed) {
      slab->take_free(&block, 1);
    } else {
      block = reinterpret_cast<Block*>(slab->start + size_t{slab->carved} * slab->shape().block_bytes);
      std::atomic_ref(slab->carved).store(slab->carved + 1, std::memory_order_relaxed);  // read by frees
      if (slab->carved == slab->shape().capacity) heap.superslabs.slab_carved_to_end(slab);
    }
    ++slab->used;
    slab->superslab->mark_changed();
    if (slab->is_exhausted()) part_full.remove(slab);
  }
  if (!was_freed) {
    block->clear_key();
  } else if (!block->take_key()) {
    report_misuse(Message::kCorruptedFreeList, block);
    return nullptr;
  }
  return block;
}

// A slab of samples that has become empty is kept for the next, in place of another: which one goes back, or null.
Slab* keep_empty(Slab* slab) HAKMEM_REQUIRES(sampled_slabs.lock) {
  SlabList& part_full = sampled_slabs.part_full[slab->size_class];
  if (part_full.first() != part_full.last()) {
    std::replace(std::begin(sampled_slabs.kept), std::end(sampled_slabs.kept), slab, static_cast<Slab*>(nullptr));
    return slab;
  }
  auto& kept = sampled_slabs.kept;
  if (std::ranges::find(kept, slab) != std::end(kept)) return nullptr;
  Slab** place = std::ranges::find(kept, nullptr);
  if (place == std::end(kept)) place = &kept[sampled_slabs.next_kept++ % SampledSlabs::kKept];
  Slab* other = std::exchange(*place, slab);
  return other != nullptr && other->used == 0 ? other : nullptr;
}

// Puts a sample into the bin above what is in `slot`, where the countdown has just ended;
// in place of a block, if there is no room or many are there. Not below it: a program that
// frees and allocates in turn would never come to the sample.
void put_sample(ThreadCache* cache, uint32_t size_class, Block** slot) {
  ClassState& state = cache->classes[size_class];
  Bin& bin = cache->bins[size_class];
  if (state.countdown.samples >= kSamplesAbove || cache->blocks_in_bin(size_class) == state.bin_limit) {
    slot = std::find_if(slot, cache->bottom(size_class), [](Block* block) { return block != nullptr; });
    if (slot == cache->bottom(size_class)) return;  // all are samples already
    Block* block = std::exchange(*slot, nullptr);
    ++state.countdown.samples;
    state.countdown.replaced = reinterpret_cast<uintptr_t>(block);
    return return_to_slabs(cache, size_class, &block, 1);
  }
  ++state.countdown.samples;
  Block** top = bin.top;
  if (slot != top) {
    // Empty meanwhile, so that a child forked in between finds no block twice.
    bin.top = cache->bottom(size_class);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    memmove(top - 1, top, static_cast<size_t>(slot - top) * sizeof(Block*));
  }
  slot[-1] = nullptr;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  bin.top = top - 1;
}

// Where a block would have come from in place of the sample that was on top of the bin.
uintptr_t next_in_line(ThreadCache* cache, uint32_t size_class) {
  if (const Block* next = *cache->bins[size_class].top) return reinterpret_cast<uintptr_t>(next);
  const ClassState& state = cache->classes[size_class];
  return state.current != nullptr ? state.current->start : state.countdown.replaced;
}

void count_sample(ThreadCache* cache, uint32_t size_class, size_t bytes) {
  metrics::Shard shard = cache->counters.shard();
  shard.add<metrics::Metric::kSamples>(0, 1);
  shard.add<metrics::Metric::kRequestsObserved>(size_class, 1);
  shard.add<metrics::Metric::kRequestedBytesObserved>(size_class, bytes);
  cache->exact.count_allocation(size_class);
}

}  // namespace

void tell_sample(const metrics::Sample& sample) {
  if (somebody_listens_to(hakmem_alloc_semaphore)) {
    uint64_t interval = metrics::sample_interval(sample.doublings);
    uint64_t bytes = sample.is_growth ? sample.drawn : sample.allocated;
    uint64_t weight = metrics::sample_weight(sample.drawn, interval) * bytes / metrics::kPartsOfObject;
    HAKMEM_PROBE3(hakmem_alloc_semaphore, otel_memory, alloc, sample.address, sample.requested, weight);
  }
  if (metrics::hooks.on_sample != nullptr) metrics::hooks.on_sample(sample);
}

void tell_sample_free(const void* address) {
  HAKMEM_PROBE1(hakmem_free_semaphore, otel_memory, free, address);
  if (metrics::hooks.on_sample_free != nullptr) metrics::hooks.on_sample_free(address);
}

void free_at_sample(Block* block, Slab* slab) {
  ThreadCache* cache = thread_state.cache;
  uint32_t size_class = slab->size_class;
  Bin& bin = cache->bins[size_class];
  count_allocations(cache, size_class);
  push(bin, block);
  put_samples(cache, size_class);
  offer_bin(cache, size_class);
}

void put_samples(ThreadCache* cache, uint32_t size_class) {
  const SampleCountdown& countdown = cache->classes[size_class].countdown;
  while (countdown.until_sample < cache->blocks_in_bin(size_class)) {
    Block** slot = cache->bottom(size_class) - countdown.until_sample - 1;
    if (draw(cache, size_class)) put_sample(cache, size_class, slot);
  }
}

void* allocate_sample(ThreadCache* cache, uint32_t size_class, size_t bytes) {
  auto& countdown = cache->classes[size_class].countdown;
  ++cache->bins[size_class].top;
  --countdown.samples;
  bool is_sampling = metrics::sample_interval_bytes.load(std::memory_order_relaxed) != 0;
  void* sample = nullptr;
  if (is_sampling) {
    if (metrics::guards_samples.load(std::memory_order_relaxed)) [[unlikely]]
      sample = allocate_guarded(bytes, size_class, cache->random);
    if (sample == nullptr) sample = place_sample(cache, size_class);
  }
  if (sample != nullptr) {
    count_sample(cache, size_class, bytes);
    size_t block_bytes = kClassShapes[size_class].block_bytes;
    report_sample({sample, bytes, block_bytes, block_bytes, size_class, false, next_in_line(cache, size_class),
                   countdown.samples_doublings});
    return sample;
  }
  --countdown.until_sample;  // nothing was allocated for it
  if (countdown.is_sampling) {
    // Without memory for samples, what a refill brings must not be samples again.
    count_allocations(cache, size_class);
    countdown.until_sample += kObjectsWhileOff;
    countdown.is_sampling = false;
    offer_bin(cache, size_class);
  }
  return allocate_from(cache, size_class * kBinWords, bytes);
}

uint32_t remove_samples(SampleCountdown& countdown, Block** blocks, uint32_t count) {
  auto left = static_cast<uint32_t>(std::remove(blocks, blocks + count, nullptr) - blocks);
  countdown.samples -= count - left;
  return left;
}

bool sample_large(ThreadCache* cache, size_t bytes) {
  if constexpr (kBuild.stats) {
    uint32_t doublings = metrics::sample_doublings.load(std::memory_order_relaxed);
    if (cache->bytes_until_large_sample == 0) {
      cache->bytes_until_large_sample = static_cast<int64_t>(draw_bytes(cache, doublings));
      cache->large_doublings = doublings;
    }
    if (cache->bytes_until_large_sample < 0) {  // sampling is off; ask again next time
      cache->bytes_until_large_sample = 0;
      return false;
    }
    cache->bytes_until_large_sample -= static_cast<int64_t>(bytes);
    if (cache->bytes_until_large_sample > 0) return false;
    cache->bytes_until_large_sample = 0;
    doublings = std::max(cache->large_doublings, doublings);
    if (!are_samples_wanted() || !is_sample_still(cache, bytes, cache->large_doublings, doublings)) return false;
    cache->large_doublings = doublings;
    cache->counters.count<metrics::Metric::kSamples>();
    return true;
  }
  return false;
}

void free_sample(Slab* slab, Block* block, uint32_t shard) {
  report_sample_free(block);
  Slab* unused = nullptr;
  bool was_free = false;
  {
    LockGuard guard(sampled_slabs.lock);
    // Its key may be gone by a write, or another thread frees it at this moment.
    was_free = slab->has_free(block);
    if (!was_free) {
      if (slab->is_exhausted()) sampled_slabs.part_full[slab->size_class].push_front(slab);
      block->mark_free();
      slab->put_free(block);
      slab->superslab->mark_changed();
      if (--slab->used == 0) unused = keep_empty(slab);
      if (unused != nullptr) sampled_slabs.part_full[unused->size_class].remove(unused);
    }
  }
  if (was_free) return report_misuse(Message::kDoubleFree, block);
  if (unused != nullptr) heap.superslabs.give_span(unused, shard);
}

}  // namespace hakmem
