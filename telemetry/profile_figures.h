// What the heap profile hands to who shows it: plain C types, as the exporter
// module is built with another C++ runtime.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/metrics/catalogue.h"
#include "allocator/metrics/sample_weight.h"
#include "telemetry/growth.h"

namespace hakmem::telemetry {

using metrics::kPartsOfObject;

// Estimates of what the whole program did, each sample counted with its weight.
struct Amounts {
  uint64_t objects;    // in parts
  uint64_t bytes;      // as allocated
  uint64_t requested;  // bytes
};

// Objects that were freed, in groups by how long they had lived.
struct Freed {
  uint64_t objects;  // in parts
  double seconds;    // summed over them
};

// Where one group ends and the next begins, in nanoseconds.
inline constexpr uint64_t kAgeBounds[] = {1'000'000, 30'000'000, 1'000'000'000, 60'000'000'000, 3'600'000'000'000};
inline constexpr size_t kAgeGroups = sizeof kAgeBounds / sizeof *kAgeBounds + 1;
inline constexpr const char* kAgeNames[kAgeGroups] = {"below 1 ms",   "1 ms to 30 ms", "30 ms to 1 s",
                                                      "1 s to 1 min", "1 min to 1 h",  "above 1 h"};

// How long the samples of each size class had lived when they were freed: buckets and sum by
// metrics::kLifetimes, not weighted.
struct LifetimeFigures {
  uint64_t slots[metrics::kSizeClassCount][metrics::kHistogramSlots];
};

// One call site: a stack that allocated.
struct SiteFigures {
  const uintptr_t* stack;  // return addresses, innermost first; stays readable
  uint32_t stack_size;     // 0: samples whose stack is not known
  Amounts live;
  Amounts peak;       // live when the whole heap was largest
  Amounts allocated;  // since the process started
  Freed freed[kAgeGroups];
  Growth growth;  // of live bytes
};

// Call sites that keep growing are told of up to this many.
inline constexpr size_t kMaxSuspects = 32;

// One live sample.
struct SampleFigures {
  uint32_t site;
  uint32_t size_class;
  Amounts amounts;
  uint64_t time;     // of its allocation: CLOCK_MONOTONIC, nanoseconds
  uintptr_t beside;  // of the slab that it would stand in; 0: not known
  // Free bytes in the slabs of all that it stands for, as their share of these: an estimate
  // by the slab `beside`, were the sample in it.
  double pinned;
};

struct ProfileTotals {
  uint64_t interval;   // mean bytes between samples, now
  uint64_t peak_time;  // CLOCK_REALTIME, nanoseconds; 0: nothing was sampled
  uint64_t dropped;    // samples without a place in the profile
  size_t sites;
  size_t samples;  // live
};

}  // namespace hakmem::telemetry
