#include "exporter/size_class_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "exporter/labels.h"

namespace hakmem::exporter {
namespace {

using metrics::Metric;

uint64_t refill_objects(const telemetry::Snapshot& snapshot, uint32_t size_class) {
  constexpr uint32_t kSources = metrics::kCountOf<metrics::RefillSource>;
  uint64_t objects = 0;
  for (uint32_t source = 0; source < kSources; ++source)
    objects += snapshot.counter(Metric::kRefillObjects, size_class * kSources + source);
  return objects;
}

// By memory first, and by traffic among those that hold little.
double weight(const telemetry::Snapshot& snapshot, uint32_t size_class) {
  double bytes = snapshot.gauge(Metric::kSlabBytes, size_class);
  if (std::isnan(bytes)) bytes = 0;
  auto block = static_cast<double>(snapshot.class_bytes[size_class]);
  return bytes + static_cast<double>(refill_objects(snapshot, size_class)) * block / 1024;
}

// Rows given to whoever is there.
constexpr size_t kFirstRows = 12;
constexpr double kHeavyBytes = 1 << 20;
constexpr double kHeavyShare = 0.01;

bool in_use(const telemetry::Snapshot& snapshot, uint32_t size_class) {
  if (!has_class(snapshot, size_class)) return false;
  return weight(snapshot, size_class) > 0 || snapshot.counter(Metric::kCollectedObjects, size_class) != 0 ||
         snapshot.counter(Metric::kRequestsObserved, size_class) != 0;
}

}  // namespace

bool has_class(const telemetry::Snapshot& snapshot, uint32_t size_class) {
  return !is_slab_class(size_class) || snapshot.class_bytes[size_class] != 0;
}

std::vector<uint32_t> classes_to_show(std::vector<uint32_t> candidates, const ClassWeights& weights, size_t slab_rows,
                                      double heavy) {
  double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](uint32_t a, uint32_t b) { return weights[a] > weights[b]; });
  std::vector<uint32_t> shown;
  for (uint32_t size_class : candidates) {
    bool is_heavy = weights[size_class] >= heavy && weights[size_class] >= all * kHeavyShare;
    if (is_slab_class(size_class) && slab_rows >= (is_heavy ? kMaxSlabClassRows : kFirstRows)) continue;
    if (is_slab_class(size_class)) ++slab_rows;
    shown.push_back(size_class);
  }
  return shown;
}

void SizeClassRows::update(const telemetry::Snapshot& snapshot) {
  ClassWeights weights{};
  std::vector<uint32_t> candidates;
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class) {
    weights[size_class] = weight(snapshot, size_class);
    if (!is_shown_[size_class] && in_use(snapshot, size_class)) candidates.push_back(size_class);
  }
  auto slab_rows = static_cast<size_t>(std::count_if(shown_.begin(), shown_.end(), is_slab_class));
  for (uint32_t size_class : classes_to_show(candidates, weights, slab_rows, kHeavyBytes)) show(size_class, snapshot);
  for (uint32_t size_class : candidates)
    if (!is_shown_[size_class]) was_other_[size_class] = has_other_ = true;
  std::sort(shown_.begin(), shown_.end());
}

void SizeClassRows::show(uint32_t size_class, const telemetry::Snapshot& snapshot) {
  shown_.push_back(size_class);
  is_shown_[size_class] = true;
  if (!was_other_[size_class]) return;
  base_.resize(metrics::kShardSlots);
  for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
    const metrics::MetricShape& shape = metrics::kShapes[i];
    auto metric = static_cast<Metric>(i);
    if (shape.storage != metrics::Storage::Shard || !has_size_class(shape.labels)) continue;
    uint32_t values = second_label_count(shape.labels);
    for (uint32_t value = 0; value < values; ++value) {
      uint32_t index = size_class * values + value;
      base_[metrics::first_slot(metric) + index] = snapshot.counter(metric, index);
    }
  }
}

uint64_t SizeClassRows::counted_as_other(Metric metric, uint32_t index) const {
  return base_.empty() ? 0 : base_[metrics::first_slot(metric) + index];
}

}  // namespace hakmem::exporter
