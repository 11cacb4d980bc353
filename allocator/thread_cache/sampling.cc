#include "allocator/thread_cache/sampling.h"

#include <atomic>

#include "allocator/thread_cache/internal.h"

namespace hakmem {

constinit SampledSlabs sampled_slabs;

namespace {

// Stands for "no sample is to come" and for "not drawn yet".
constexpr uint32_t kNever = UINT32_MAX;
constexpr uint32_t kUndrawn = 0;
// A stored countdown is one more than the objects that are left.
constexpr uint32_t kMaxCountdown = UINT32_MAX - 2;

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

// Rounding an exponential up to objects makes it geometric with
// p = 1 - exp(-class size / mean), as it has to be.
void draw(ThreadCache* cache, uint32_t size_class) {
  double bytes = draw_bytes(cache);
  double objects = bytes / kClassShapes[size_class].block_bytes;
  cache->classes[size_class].until_sample = bytes < 0                  ? kNever
                                            : objects >= kMaxCountdown ? kMaxCountdown
                                                                       : static_cast<uint32_t>(objects) + 1;
}

}  // namespace

uint32_t objects_until_sample(ThreadCache* cache, uint32_t size_class) {
  uint32_t& until_sample = cache->classes[size_class].until_sample;
  bool is_on_again = until_sample == kNever && metrics::sample_interval_bytes.load(std::memory_order_relaxed) != 0;
  if (until_sample == kUndrawn || is_on_again) draw(cache, size_class);
  return until_sample == kNever ? kNever : until_sample - 1;
}

void objects_handed_out(ThreadCache* cache, uint32_t size_class, uint32_t count) {
  uint32_t& until_sample = cache->classes[size_class].until_sample;
  if (until_sample != kNever) until_sample = until_sample > count ? until_sample - count : 1;
}

void objects_returned(ThreadCache* cache, uint32_t size_class, uint32_t count) {
  uint32_t& until_sample = cache->classes[size_class].until_sample;
  if (until_sample < kMaxCountdown - count) until_sample += count;
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

void* allocate_sample(ThreadCache* cache, uint32_t size_class) {
  draw(cache, size_class);
  SlabList& part_full = sampled_slabs.part_full[size_class];
  LockGuard guard(sampled_slabs.lock);
  Slab* slab = part_full.first();
  if (slab == nullptr) {
    slab = heap.superslabs.take_span(kClassShapes[size_class].units, SlabState::Sampled, size_class, cache->shard);
    if (slab == nullptr) return nullptr;
    slab->owner.store(owner::kSampled, std::memory_order_relaxed);
    part_full.push_front(slab);
  }
  Block* block = slab->free;
  if (block != nullptr) {
    slab->free = block->next();
  } else {
    block = reinterpret_cast<Block*>(slab->start + size_t{slab->carved} * slab->shape().block_bytes);
    ++slab->carved;
  }
  ++slab->used;
  if (slab->is_exhausted()) part_full.remove(slab);
  block->clear_key();
  metrics::count<metrics::Metric::kSamples>(cache->shard);
  cache->exact.count_allocation(size_class);
  return block;
}

void free_sample(Slab* slab, Block* block, uint32_t shard) {
  SlabList& part_full = sampled_slabs.part_full[slab->size_class];
  bool is_empty = false;
  {
    LockGuard guard(sampled_slabs.lock);
    if (slab->is_exhausted()) part_full.push_front(slab);
    block->mark_free();
    block->set_next(slab->free);
    slab->free = block;
    // One empty slab stays, for the next sample.
    is_empty = --slab->used == 0 && part_full.first() != part_full.last();
    if (is_empty) part_full.remove(slab);
  }
  if (is_empty) heap.superslabs.give_span(slab, shard);
}

}  // namespace hakmem
