// The books of the heap profile, for the files that keep them: heap_profile.cc the
// samples, growth_watch.cc what grows.
#pragma once

#include <errno.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "allocator/base/assert.h"
#include "telemetry/growth.h"
#include "telemetry/mapped_array.h"
#include "telemetry/profile_figures.h"
#include "telemetry/sample_rate.h"
#include "telemetry/spin_lock.h"
#include "telemetry/transitions.h"

namespace hakmem::telemetry {

inline constexpr size_t kSampleBuckets = 1 << 14;
inline constexpr size_t kSiteBuckets = 1 << 13;

// Sites and samples are known by their place plus one, so that 0 is none.
struct alignas(32) Site {
  uint32_t next;  // in its bucket
  uint32_t stack_size;
  uint64_t hash;
  const uintptr_t* stack;
  Amounts live;
  Amounts allocated;
  Amounts peak;          // as `live` was in the maximum `peak_number`
  uint64_t peak_number;  // of an older one than the last: nothing has changed since it
  Freed freed[kAgeGroups];
  uint64_t floor;  // least of live.bytes in this window
  Growth growth;   // over the windows before
};

struct LiveSample {
  uint32_t next;  // in its bucket, or of the free ones
  uint32_t site;
  uintptr_t address;
  uint64_t weight;  // objects, in parts
  uint64_t drawn;   // bytes that the weight comes from
  uint64_t requested;
  uint64_t allocated;
  uint64_t time;
  uint16_t size_class;
  uint16_t doublings;  // of the interval that the weight comes from
  uint32_t beside;     // metrics::Sample::beside in units of 32 KiB: those of 47 bits, all that programs have, fit
};
inline constexpr uint32_t kBesideShift = 15;

// As of the last window, those that have grown most first.
struct Suspects {
  uint32_t sites[kMaxSuspects];
  size_t count;
};

// Everything under `lock`, but what a free looks at first.
struct HeapProfile {
  SpinLock lock;
  bool is_held_for_fork;
  std::atomic<uint32_t> sample_buckets[kSampleBuckets];  // read without the lock
  uint32_t site_buckets[kSiteBuckets];
  MappedArray<LiveSample, 256> samples;
  MappedArray<Site, 257> sites;
  MappedArray<uintptr_t, 256> stacks;
  uint32_t free_samples;
  size_t live_samples;
  uint64_t live_bytes;
  uint64_t peak_bytes;
  uint64_t peak_number;
  uint64_t peak_time;
  std::atomic<uint64_t> dropped;
  Suspects suspects;
  SampleRate rate;
  std::atomic<uint64_t> longest_interval;  // of samples, since growth was looked at last
  LifetimeFigures lifetimes;
};
HAKMEM_HIDDEN extern HeapProfile profile;

// This thread is in the profile, so that a signal handler which allocates stays out; or its
// allocations are telemetry's.
HAKMEM_HIDDEN extern constinit thread_local bool is_inside;

// Enters the profile, with the lock; or not, and then nothing may be done.
class ProfileScope {
 public:
  ProfileScope() : saved_errno_(errno) {
    is_inside = true;
    is_entered_ = profile.lock.try_lock(forked_unnoticed);
    if (!is_entered_ && forked_unnoticed()) {
      is_inside = false;  // not this thread had the lock, but one of the parent
      on_fork_child();
      is_inside = true;
      is_entered_ = profile.lock.try_lock(forked_unnoticed);
    }
  }
  ~ProfileScope() {
    if (is_entered_) profile.lock.unlock();
    is_inside = false;
    errno = saved_errno_;
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;
  explicit operator bool() const { return is_entered_; }

 private:
  int saved_errno_;
  bool is_entered_ = false;
};

// What a reader enters by: its own thread may be one that is excluded, and stays so.
class ReadingScope {
 public:
  explicit operator bool() const { return static_cast<bool>(scope_); }

 private:
  struct Keep {
    bool was_inside = is_inside;
    ~Keep() { is_inside = was_inside; }
  };
  Keep keep_;
  ProfileScope scope_;
};

inline SiteFigures figures_of(const Site& site) {
  const Amounts& peak = site.peak_number == profile.peak_number ? site.peak : site.live;
  SiteFigures figures{site.stack, site.stack_size, site.live, peak, site.allocated, {}, site.growth};
  std::copy(std::begin(site.freed), std::end(site.freed), figures.freed);
  return figures;
}

}  // namespace hakmem::telemetry
