#include "exporter/lifetimes.h"

#include <numeric>
#include <vector>

#include "exporter/labels.h"
#include "exporter/size_class_rows.h"

namespace hakmem::exporter {
namespace {

// Of a class that gets a histogram of its own, and, but for large and huge, as a share of all
// samples that were freed: while a program starts many classes have a few.
constexpr double kMinSamples = 16;
constexpr double kMinShare = 0.01;
// Of a class that gets one of the rows that are held back.
constexpr double kHeavySamples = 256;

uint64_t samples_of(const uint64_t (&slots)[metrics::kHistogramSlots]) {
  return std::accumulate(slots, slots + metrics::kHistogramBuckets, uint64_t{0});
}

}  // namespace

void Lifetimes::give_rows() {
  ClassWeights samples{};
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class)
    samples[size_class] = static_cast<double>(samples_of(now_.slots[size_class]));
  double all = std::accumulate(samples.begin(), samples.end(), 0.0);
  std::vector<uint32_t> candidates;
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class) {
    bool is_share = !is_slab_class(size_class) || samples[size_class] >= all * kMinShare;
    if (!has_row_[size_class] && samples[size_class] >= kMinSamples && is_share) candidates.push_back(size_class);
  }
  for (uint32_t size_class : classes_to_show(candidates, samples, slab_rows_, kHeavySamples)) {
    has_row_[size_class] = true;
    if (is_slab_class(size_class)) ++slab_rows_;
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
