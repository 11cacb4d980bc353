#include "telemetry/heap_profile.h"

#include <errno.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "allocator/metrics/counters.h"
#include "telemetry/heap_books.h"
#include "telemetry/system.h"
#include "telemetry/unwind.h"

namespace hakmem::telemetry {

constinit HeapProfile profile{};
constinit thread_local bool is_inside = false;

namespace {

constexpr size_t kMaxStack = 48;

void begin_anew() {
  for (auto& bucket : profile.sample_buckets) bucket.store(0, std::memory_order_relaxed);
  memset(profile.site_buckets, 0, sizeof profile.site_buckets);
  profile.samples.clear();
  profile.sites.clear();
  profile.stacks.clear();
  profile.free_samples = 0;
  profile.live_samples = 0;
  profile.live_bytes = profile.peak_bytes = profile.peak_number = profile.peak_time = 0;
  profile.suspects.count = 0;
  profile.lifetimes = {};
}

void drop() { profile.dropped.fetch_add(1, std::memory_order_relaxed); }

constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;

size_t bucket_of(uintptr_t address) { return address / 16 * kMultiplier >> 50; }
static_assert(kSampleBuckets == size_t{1} << (64 - 50));

uint32_t find_site(const uintptr_t* stack, size_t size) {
  uint64_t hash = size;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ stack[i]) * kMultiplier ^ hash >> 29;
  uint32_t& bucket = profile.site_buckets[hash % kSiteBuckets];
  for (uint32_t i = bucket; i != 0; i = profile.sites[i - 1].next) {
    const Site& site = profile.sites[i - 1];
    if (site.hash == hash && site.stack_size == size && std::equal(stack, stack + size, site.stack)) return i;
  }
  uintptr_t* kept = size == 0 ? nullptr : profile.stacks.extend(size);
  if (size != 0 && kept == nullptr) return 0;
  Site* site = profile.sites.extend(1);
  if (site == nullptr) return 0;
  if (size != 0) memcpy(kept, stack, size * sizeof *stack);
  site->stack = kept;
  site->stack_size = static_cast<uint32_t>(size);
  site->hash = hash;
  site->peak_number = profile.peak_number;
  site->next = bucket;
  bucket = static_cast<uint32_t>(profile.sites.size());
  return bucket;
}

// Without room for one more stack its samples count as of an unknown one.
uint32_t site_of(const uintptr_t* stack, size_t size) {
  uint32_t site = find_site(stack, size);
  return site != 0 || size == 0 ? site : find_site(stack, 0);
}

Amounts amounts_of(uint64_t weight, uint64_t requested, uint64_t allocated) {
  return {weight, weight * allocated / kPartsOfObject, weight * requested / kPartsOfObject};
}
Amounts amounts_of(const LiveSample& sample) { return amounts_of(sample.weight, sample.requested, sample.allocated); }

void add(Amounts& amounts, const Amounts& other) {
  amounts.objects += other.objects;
  amounts.bytes += other.bytes;
  amounts.requested += other.requested;
}

void subtract(Amounts& amounts, const Amounts& other) {
  amounts.objects -= other.objects;
  amounts.bytes -= other.bytes;
  amounts.requested -= other.requested;
}

// Before `live` of the site changes: keeps what it was at the last maximum.
void keep_peak(Site& site) {
  if (site.peak_number == profile.peak_number) return;
  site.peak = site.live;
  site.peak_number = profile.peak_number;
}

void add_live(const LiveSample& sample) {
  Site& site = profile.sites[sample.site - 1];
  Amounts amounts = amounts_of(sample);
  keep_peak(site);
  add(site.live, amounts);
  profile.live_bytes += amounts.bytes;
  if (profile.live_bytes <= profile.peak_bytes) return;
  profile.peak_bytes = profile.live_bytes;
  profile.peak_time = sample.time;
  ++profile.peak_number;
}

void subtract_live(const LiveSample& sample) {
  Site& site = profile.sites[sample.site - 1];
  Amounts amounts = amounts_of(sample);
  keep_peak(site);
  subtract(site.live, amounts);
  profile.live_bytes -= amounts.bytes;
}

void count_freed(const LiveSample& sample, uint64_t lifetime) {
  Site& site = profile.sites[sample.site - 1];
  size_t group = 0;
  while (group + 1 < kAgeGroups && lifetime >= kAgeBounds[group]) ++group;
  site.freed[group].objects += sample.weight;
  site.freed[group].seconds +=
      static_cast<double>(sample.weight) / kPartsOfObject * static_cast<double>(lifetime) / 1e9;
  uint64_t* slots = profile.lifetimes.slots[sample.size_class];
  ++slots[metrics::histogram_bucket(lifetime, metrics::kLifetimes)];
  slots[metrics::kHistogramBuckets] += lifetime;
}

// After `live` of a sample's site has changed for good.
void lower_floor(const LiveSample& sample) {
  Site& site = profile.sites[sample.site - 1];
  site.floor = std::min(site.floor, site.live.bytes);
}

// A place for a sample; 0 when there is none.
uint32_t take_place() {
  uint32_t place = profile.free_samples;
  if (place != 0) {
    profile.free_samples = profile.samples[place - 1].next;
    return place;
  }
  return profile.samples.extend(1) == nullptr ? 0 : static_cast<uint32_t>(profile.samples.size());
}

void link_in(uint32_t place, uintptr_t address) {
  LiveSample& sample = profile.samples[place - 1];
  auto& bucket = profile.sample_buckets[bucket_of(address)];
  sample.address = address;
  sample.next = bucket.load(std::memory_order_relaxed);
  bucket.store(place, std::memory_order_relaxed);
}

// The place of the sample at `address`, which is in no bucket afterwards; 0 when there is none.
uint32_t link_out(uintptr_t address) {
  auto& bucket = profile.sample_buckets[bucket_of(address)];
  LiveSample* before = nullptr;
  for (uint32_t place = bucket.load(std::memory_order_relaxed); place != 0;) {
    LiveSample& sample = profile.samples[place - 1];
    if (sample.address == address) {
      before == nullptr ? bucket.store(sample.next, std::memory_order_relaxed) : void(before->next = sample.next);
      return place;
    }
    before = &sample;
    place = sample.next;
  }
  return 0;
}

void remove(uint32_t place) {
  LiveSample& sample = profile.samples[place - 1];
  subtract_live(sample);
  lower_floor(sample);
  --profile.live_samples;
  sample.site = 0;
  sample.next = profile.free_samples;
  profile.free_samples = place;
}

// Whether there may be a sample at `address`. Without the lock: what this thread may
// free was handed to it after it was put in.
bool may_be_sample(const void* address) {
  size_t bucket = bucket_of(reinterpret_cast<uintptr_t>(address));
  return profile.sample_buckets[bucket].load(std::memory_order_relaxed) != 0;
}

void insert(const metrics::Sample& sample, uint32_t site, uint64_t now) {
  auto address = reinterpret_cast<uintptr_t>(sample.address);
  // A free that could not be noted: what stood here is gone.
  if (uint32_t stale = link_out(address); stale != 0) remove(stale);
  uint32_t place = take_place();
  if (place == 0) return drop();
  LiveSample& live = profile.samples[place - 1];
  live.site = site;
  live.drawn = sample.is_growth ? sample.requested : sample.drawn;
  live.weight = metrics::sample_weight(live.drawn, metrics::sample_interval(sample.doublings));
  live.requested = sample.requested;
  live.allocated = sample.allocated;
  live.time = now;
  live.size_class = static_cast<uint16_t>(sample.size_class);
  live.doublings = static_cast<uint16_t>(sample.doublings);
  live.beside = static_cast<uint32_t>(sample.beside >> kBesideShift);
  link_in(place, address);
  ++profile.live_samples;
  add_live(live);
}

// Only of the default interval: another is what somebody asked for.
void bound_rate(uint64_t now) {
  uint32_t doublings = 0;
  if (metrics::sample_interval_bytes.load(std::memory_order_relaxed) == metrics::kDefaultSampleIntervalBytes)
    doublings = profile.rate.after_sample(now, metrics::sample_doublings.load(std::memory_order_relaxed));
  metrics::sample_doublings.store(doublings, std::memory_order_relaxed);
  uint64_t longest = profile.longest_interval.load(std::memory_order_relaxed);
  profile.longest_interval.store(std::max(longest, metrics::sample_interval(doublings)), std::memory_order_relaxed);
}

bool is_live(uintptr_t address) {
  uint32_t place = link_out(address);
  if (place != 0) link_in(place, address);
  return place != 0;
}

void on_fork() {
  if (is_inside) return;  // a signal handler, in the middle of this file
  int saved_errno = errno;
  profile.is_held_for_fork = profile.lock.try_lock(forked_unnoticed);
  errno = saved_errno;
}

void on_fork_parent() {
  if (is_inside || !profile.is_held_for_fork) return;
  profile.is_held_for_fork = false;
  profile.lock.unlock();
}

uint64_t real_time_of(uint64_t monotonic) {
  return monotonic + clock_nanoseconds(CLOCK_REALTIME) - clock_nanoseconds(CLOCK_MONOTONIC);
}

}  // namespace

void on_sample(const metrics::Sample& sample) {
  if (is_inside) return;
  uintptr_t stack[kMaxStack];
  is_inside = true;
  size_t size = capture_stack(stack, kMaxStack);
  uint64_t now = clock_nanoseconds(CLOCK_MONOTONIC);
  ProfileScope scope;
  if (!scope) return drop();
  bound_rate(now);
  uint32_t site = site_of(stack, size);
  if (site == 0) return drop();
  uint64_t weight = metrics::sample_weight(sample.drawn, metrics::sample_interval(sample.doublings));
  Amounts amounts = amounts_of(weight, sample.requested, sample.allocated);
  if (sample.is_growth) amounts = {0, weight * sample.drawn / kPartsOfObject, weight * sample.drawn / kPartsOfObject};
  add(profile.sites[site - 1].allocated, amounts);
  if (!sample.is_growth || !is_live(reinterpret_cast<uintptr_t>(sample.address))) insert(sample, site, now);
}

void on_sample_free(const void* address) {
  if (is_inside || !may_be_sample(address)) return;
  uint64_t now = clock_nanoseconds(CLOCK_MONOTONIC);
  ProfileScope scope;
  if (!scope) return drop();
  uint32_t place = link_out(reinterpret_cast<uintptr_t>(address));
  if (place == 0) return;
  const LiveSample& sample = profile.samples[place - 1];
  count_freed(sample, now - sample.time);
  remove(place);
}

void on_sample_resize(const void* old_address, const void* address, size_t requested, size_t allocated) {
  if (is_inside || !may_be_sample(old_address)) return;
  ProfileScope scope;
  if (!scope) return drop();
  uint32_t place = link_out(reinterpret_cast<uintptr_t>(old_address));
  if (place == 0) return;
  LiveSample& sample = profile.samples[place - 1];
  subtract_live(sample);
  // What it grows by adds to the chance of having been sampled by now; what it
  // loses takes nothing away.
  if (requested > sample.requested) {
    // As of the interval that it is drawn with now, which may have become a longer or a shorter one.
    uint32_t doublings = metrics::sample_doublings.load(std::memory_order_relaxed);
    sample.drawn = (sample.drawn << doublings >> sample.doublings) + (requested - sample.requested);
    sample.doublings = static_cast<uint16_t>(doublings);
    sample.weight = metrics::sample_weight(sample.drawn, metrics::sample_interval(doublings));
  }
  sample.requested = requested;
  sample.allocated = allocated;
  if (uint32_t stale = link_out(reinterpret_cast<uintptr_t>(address)); stale != 0) remove(stale);
  link_in(place, reinterpret_cast<uintptr_t>(address));
  add_live(sample);
  lower_floor(sample);
}

void leave_profile_to_parent() {
  if (is_inside) return;  // this thread's own section, which goes on after the fork
  bool is_whole = profile.is_held_for_fork || !profile.lock.is_held();
  profile.is_held_for_fork = false;
  if (!is_whole) begin_anew();
  profile.lock.unlock();
}

void exclude_this_thread() { is_inside = true; }

namespace {

// Returns how many samples were copied; negative when the profile cannot be had.
ptrdiff_t copy_books(SiteFigures* sites, size_t site_capacity, SampleFigures* samples, size_t sample_capacity,
                     ProfileTotals* totals) {
  ReadingScope scope;
  if (!scope) return -1;
  uint64_t peak_time = profile.peak_time == 0 ? 0 : real_time_of(profile.peak_time);
  *totals = {metrics::sample_interval(), peak_time, profile.dropped.load(std::memory_order_relaxed),
             profile.sites.size(), profile.live_samples};
  if (profile.sites.size() <= site_capacity)
    for (size_t i = 0; i < profile.sites.size(); ++i) sites[i] = figures_of(profile.sites[i]);
  ptrdiff_t count = 0;
  for (size_t i = 0; samples != nullptr && profile.live_samples <= sample_capacity && i < profile.samples.size(); ++i) {
    const LiveSample& sample = profile.samples[i];
    if (sample.site == 0) continue;
    uintptr_t beside = uintptr_t{sample.beside} << kBesideShift;
    samples[count++] = {sample.site - 1, sample.size_class, amounts_of(sample), sample.time, beside, 0};
  }
  return count;
}

// Each object of a slab pins an equal part of what is free in it. The sample itself stands
// elsewhere: where everything else in its slab was freed, it alone would hold the slab.
double pinned_by(const SampleFigures& sample) {
  metrics::SlabView slab{};
  if (sample.beside == 0) return 0;
  double objects = static_cast<double>(sample.amounts.objects) / kPartsOfObject;
  bool is_there = metrics::heap_view.slab_at(sample.beside, &slab) && slab.size_class == sample.size_class;
  if (!is_there || slab.used == 0) return objects * (1 << kBesideShift);
  double free_bytes = static_cast<double>(slab.carved - slab.used) * slab.block_bytes;
  return objects * free_bytes / slab.used;
}

}  // namespace

bool copy_profile(SiteFigures* sites, size_t site_capacity, SampleFigures* samples, size_t sample_capacity,
                  ProfileTotals* totals) {
  ptrdiff_t count = copy_books(sites, site_capacity, samples, sample_capacity, totals);
  for (ptrdiff_t i = 0; i < count; ++i) samples[i].pinned = pinned_by(samples[i]);
  return count >= 0;
}

bool copy_lifetimes(LifetimeFigures* result) {
  ReadingScope scope;
  if (!scope) return false;
  *result = profile.lifetimes;
  return true;
}

void visit_profile_mappings(void (*visit)(void*, uintptr_t, size_t), void* context) {
  auto visit_one = [&](uintptr_t address, size_t bytes) { visit(context, address, bytes); };
  profile.samples.visit_used(visit_one);
  profile.sites.visit_used(visit_one);
  profile.stacks.visit_used(visit_one);
}

void start_heap_profile() {
  prepare_unwinding();
  metrics::hooks.on_fork = on_fork;
  metrics::hooks.on_fork_parent = on_fork_parent;
  metrics::hooks.on_sample_free = on_sample_free;
  metrics::hooks.on_sample_resize = on_sample_resize;
  metrics::hooks.on_sample = on_sample;
}

}  // namespace hakmem::telemetry
