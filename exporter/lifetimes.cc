#include "exporter/lifetimes.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "exporter/labels.h"

namespace hakmem::exporter {
namespace {

// Of a class that gets a histogram of its own, and as a share of all samples that were freed:
// while a program starts many classes have a few.
constexpr uint64_t kMinSamples = 16;
constexpr uint64_t kMinShare = 100;  // one in so many

uint64_t samples_of(const uint64_t (&slots)[metrics::kHistogramSlots]) {
  return std::accumulate(slots, slots + metrics::kHistogramBuckets, uint64_t{0});
}

}  // namespace

void Lifetimes::give_rows() {
  uint64_t all = 0;
  for (const auto& slots : now_.slots) all += samples_of(slots);
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount && rows_ < kMaxSizeClassRows; ++size_class) {
    uint64_t samples = samples_of(now_.slots[size_class]);
    if (has_row_[size_class] || samples < kMinSamples || samples < all / kMinShare) continue;
    has_row_[size_class] = true;
    ++rows_;
  }
}

void Lifetimes::add_to(const telemetry::Snapshot& snapshot, Exposition* exposition) {
  host_.copy_lifetimes(&now_);  // where they cannot be had just now, they stay as they were
  give_rows();
  uint64_t other[metrics::kHistogramSlots]{};
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class) {
    uint64_t own[metrics::kHistogramSlots];
    for (uint32_t slot = 0; slot < metrics::kHistogramSlots; ++slot) {
      uint64_t now = now_.slots[size_class][slot];
      uint64_t& as_other = as_other_.slots[size_class][slot];
      if (!has_row_[size_class]) as_other = now;
      other[slot] += as_other;
      own[slot] = now - as_other;
    }
    if (has_row_[size_class])
      exposition->add_served(metrics::Metric::kSampledLifetime, own, size_class_name(size_class, snapshot.class_bytes));
  }
  exposition->add_served(metrics::Metric::kSampledLifetime, other, "other");
}

}  // namespace hakmem::exporter
