#include "allocator/thread_cache/sampling.h"

#include <atomic>

#include "allocator/thread_cache/internal.h"

namespace hakmem {

constinit SampledSlabs sampled_slabs;

namespace {

// The most that a countdown holds; also how soon a thread asks again whether
// sampling is on.
constexpr uint32_t kMaxCountdown = 1u << 30;
constexpr uint32_t kObjectsWhileOff = 1u << 16;

// Minus the natural logarithm of a uniform number in (0, 1], without libm: good to 1e-5.
double exponential_variate(RandomGenerator& random) {
  uint64_t bits = random.next() | 1;
  uint32_t exponent = log2_floor(bits);
  double mantissa = static_cast<double>(bits << (63 - exponent)) * 0x1p-63;  // in [1, 2)
  double t = (mantissa - 1) / (mantissa + 1);
  double t2 = t * t;
  double log_mantissa = 2 * t * (1 + t2 * (1.0 / 3 + t2 * (1.0 / 5 + t2 * (1.0 / 7 + t2 / 9))));
  return (64 - static_cast<double>(exponent)) * 0.6931471805599453 - log_mantissa;
}

// Bytes until the next sample of a Poisson process over allocated bytes; negative: never.
double draw_bytes(ThreadCache* cache) {
  uint64_t interval = metrics::sample_interval_bytes.load(std::memory_order_relaxed);
  return interval == 0 ? -1 : exponential_variate(cache->random) * static_cast<double>(interval);
}

// Draws the objects before the next sample; false when sampling is off.
// Rounding an exponential up to objects makes it geometric with
// p = 1 - exp(-class size / mean), as it has to be.
bool draw(ThreadCache* cache, uint32_t size_class) {
  auto& countdown = cache->classes[size_class].countdown;
  double bytes = draw_bytes(cache);
  double objects = bytes / kClassShapes[size_class].block_bytes;
  countdown.is_sampling = bytes >= 0;
  countdown.until_sample = bytes < 0                  ? kObjectsWhileOff
                           : objects >= kMaxCountdown ? kMaxCountdown
                                                      : static_cast<uint32_t>(objects);
  return countdown.is_sampling;
}

void* place_sample(ThreadCache* cache, uint32_t size_class) {
  SlabList& part_full = sampled_slabs.part_full[size_class];
  LockGuard guard(sampled_slabs.lock);
  Slab* slab = part_full.first();
  if (slab == nullptr) {
    slab = heap.superslabs.take_span(kClassShapes[size_class].units, SlabState::Sampled, size_class, cache->shard);
    if (slab == nullptr) return nullptr;
    slab->owner.store(owner::kSampled, std::memory_order_relaxed);
    part_full.push_front(slab);
  }
  Block* block = nullptr;
  if (slab->listed() != 0) {
    slab->take_free(&block, 1);
  } else {
    block = reinterpret_cast<Block*>(slab->start + size_t{slab->carved} * slab->shape().block_bytes);
    std::atomic_ref(slab->carved).store(slab->carved + 1, std::memory_order_relaxed);  // read by frees
  }
  ++slab->used;
  if (slab->is_exhausted()) part_full.remove(slab);
  block->clear_key();
  return block;
}

}  // namespace

void stop_at_sample(ThreadCache* cache, uint32_t size_class, uint32_t blocks, uint32_t room) {
  auto& countdown = cache->classes[size_class].countdown;
  uint32_t left = countdown.until_sample - countdown.offered;
  if (left == 0 && !countdown.is_sampling) [[unlikely]] {  // it frees before it allocates
    count_allocations(cache, size_class);
    draw(cache, size_class);
    left = countdown.until_sample;
  }
  // A half for what the bin has and a half for what comes: so few looks are needed until the sample.
  uint32_t shown = left < 2 * blocks ? (left + 1) / 2 : blocks;
  Bin& bin = cache->bins[size_class];
  if (shown < blocks) {
    Block** slot = bin.top + shown;
    countdown.hidden_slot = slot;
    countdown.hidden = *slot;
    // In this order, and back in the other one: a forked child finds the block in either place.
    std::atomic_signal_fence(std::memory_order_release);
    *slot = nullptr;
  }
  if (room > left - shown) room = left - shown;
  bin.frees_left = room + 1;
  countdown.offered += blocks + room + 1;
}

void free_before_sample(ThreadCache* cache, uint32_t size_class, Block* block, uint32_t room) {
  uint32_t blocks = open_bin(cache, size_class);
  push(cache->bins[size_class], block);
  stop_at_sample(cache, size_class, blocks + 1, room);
}

void bring_back_hidden(SampleCountdown& countdown) {
  *countdown.hidden_slot = countdown.hidden;
  std::atomic_signal_fence(std::memory_order_release);
  countdown.hidden = nullptr;
}

void* sample_if_due(ThreadCache* cache, uint32_t size_class, size_t bytes) {
  auto& countdown = cache->classes[size_class].countdown;
  bool is_due = countdown.is_sampling;  // else nothing was drawn yet, or sampling was off
  if (!draw(cache, size_class) || (!is_due && countdown.until_sample > 0)) return nullptr;
  if (!is_due) draw(cache, size_class);  // the first draw was 0: this object is due, this is for the next one
  void* sample = place_sample(cache, size_class);
  if (sample == nullptr) {
    if (countdown.until_sample == 0) countdown.until_sample = 1;
    return nullptr;
  }
  metrics::Slot* slots = cache->counters.slots();
  metrics::add<metrics::Metric::kAllocations>(slots, size_class, 1);
  metrics::add<metrics::Metric::kSamples>(slots, 0, 1);
  metrics::add<metrics::Metric::kRequestsObserved>(slots, size_class, 1);
  metrics::add<metrics::Metric::kRequestedBytesObserved>(slots, size_class, bytes);
  cache->exact.count_allocation(size_class);
  return sample;
}

void sample_large(ThreadCache* cache, size_t bytes) {
  if constexpr (kBuild.stats) {
    if (cache->bytes_until_large_sample == 0) cache->bytes_until_large_sample = static_cast<int64_t>(draw_bytes(cache));
    if (cache->bytes_until_large_sample < 0) {  // sampling is off; ask again next time
      cache->bytes_until_large_sample = 0;
      return;
    }
    cache->bytes_until_large_sample -= static_cast<int64_t>(bytes);
    if (cache->bytes_until_large_sample > 0) return;
    cache->bytes_until_large_sample = 0;
    metrics::count<metrics::Metric::kSamples>(cache->shard);
  }
}

void free_sample(Slab* slab, Block* block, uint32_t shard) {
  SlabList& part_full = sampled_slabs.part_full[slab->size_class];
  bool is_empty = false;
  {
    LockGuard guard(sampled_slabs.lock);
    if (slab->is_exhausted()) part_full.push_front(slab);
    block->mark_free();
    slab->put_free(block);
    // One empty slab stays, for the next sample.
    is_empty = --slab->used == 0 && part_full.first() != part_full.last();
    if (is_empty) part_full.remove(slab);
  }
  if (is_empty) heap.superslabs.give_span(slab, shard);
}

}  // namespace hakmem
