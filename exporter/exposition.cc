#include "exporter/exposition.h"

#include <cmath>
#include <cstring>
#include <iterator>
#include <string_view>

#include "exporter/labels.h"

namespace hakmem::exporter {
namespace {

using metrics::kCountOf;
using metrics::Kind;
using metrics::LabelSet;
using metrics::Metric;
using metrics::MetricShape;
using metrics::Storage;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using telemetry::Snapshot;

// The text format wants backslashes and line ends escaped in help texts;
// prometheus-cpp writes them as they are.
std::string escaped_help(std::string_view help) {
  std::string escaped;
  for (char c : help) {
    if (c == '\\') {
      escaped += "\\\\";
    } else if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

const char* name_of(Metric metric) { return metrics::kTexts[static_cast<size_t>(metric)].name; }

// Times are counted in nanoseconds and shown in seconds.
double shown_counter(Metric metric, uint64_t value) {
  auto number = static_cast<double>(value);
  return ends_with(name_of(metric), "_seconds_total") ? number / 1e9 : number;
}

template <class Value>
ClientMetric series(Kind kind, Labels labels, Value value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (kind == Kind::Counter) {
    metric.counter.value = static_cast<double>(value);
  } else {
    metric.gauge.value = static_cast<double>(value);
  }
  return metric;
}

Labels with(const Labels& labels, const char* name, std::string value) {
  Labels extended = labels;
  if (*name != '\0') extended.push_back({name, std::move(value)});
  return extended;
}

// A summary has the count and the sum alone.
ClientMetric histogram(Metric metric, Labels labels, const uint64_t* slots, Detail detail) {
  ClientMetric result;
  result.label = std::move(labels);
  uint64_t count = 0;
  for (uint32_t bucket = 0; bucket < metrics::kHistogramBuckets; ++bucket) {
    count += slots[bucket];
    bool last = bucket + 1 == metrics::kHistogramBuckets;
    if (detail == Detail::Summary && !last) continue;
    double bound = last ? std::numeric_limits<double>::infinity()
                        : static_cast<double>(metrics::scale_of(metric).bound(bucket)) / 1e9;
    result.histogram.bucket.push_back({count, bound});
  }
  result.histogram.sample_count = count;
  result.histogram.sample_sum = static_cast<double>(slots[metrics::kHistogramBuckets]) / 1e9;
  return result;
}

}  // namespace

// Adds the series of one process.
class Exposition::Writer {
 public:
  Writer(std::vector<MetricFamily>& families, const Snapshot& snapshot, const SizeClassRows& rows,
         const Labels& process, Detail detail)
      : families_(families), snapshot_(snapshot), rows_(rows), process_(process), detail_(detail) {}

  void write() {
    for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
      auto metric = static_cast<Metric>(i);
      const MetricShape& shape = metrics::kShapes[i];
      if (shape.storage == Storage::Serve || (detail_ == Detail::Summary && !in_summary(metric))) continue;
      if (shape.kind == Kind::Histogram) {
        write_histograms(metric);
      } else if (!has_size_class(shape.labels)) {
        write_plain(metric);
      } else if (detail_ == Detail::Summary) {
        write_sums(metric);
      } else {
        write_size_classes(metric);
      }
    }
    if (snapshot_.version.empty()) return;
    Labels labels = with(process_, "version", snapshot_.version);
    add(Metric::kBuildInfo, with(labels, "build", snapshot_.build), 1.0);
  }

 private:
  void add(Metric metric, Labels labels, double value) {
    if (std::isnan(value)) return;
    Kind kind = metrics::shape_of(metric).kind;
    families_[static_cast<size_t>(metric)].metric.push_back(series(kind, std::move(labels), value));
  }

  double value(Metric metric, uint32_t index) const {
    return metrics::shape_of(metric).kind == Kind::Counter ? shown_counter(metric, snapshot_.counter(metric, index))
                                                           : snapshot_.gauge(metric, index);
  }

  void write_plain(Metric metric) {
    LabelSet labels = metrics::shape_of(metric).labels;
    // There is hardly ever one, and a machine has many processes.
    bool skips_zeroes = metric == Metric::kMemoryErrors && detail_ == Detail::Summary;
    for (uint32_t index = 0; index < metrics::cardinality(labels); ++index) {
      double shown = value(metric, index);
      if (shown != 0 || !skips_zeroes)
        add(metric, with(process_, label_name(labels), label_value(labels, index)), shown);
    }
  }

  void write_sums(Metric metric) {
    LabelSet labels = metrics::shape_of(metric).labels;
    uint32_t values = second_label_count(labels);
    for (uint32_t second = 0; second < values; ++second) {
      double sum = 0;
      for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class)
        sum += value(metric, size_class * values + second);
      add(metric, with(with(process_, "size_class", "all"), label_name(labels), label_value(labels, second)), sum);
    }
  }

  void write_size_classes(Metric metric) {
    LabelSet labels = metrics::shape_of(metric).labels;
    bool sharded = metrics::shape_of(metric).storage == Storage::Shard;
    uint32_t values = second_label_count(labels);
    for (uint32_t second = 0; second < values; ++second) {
      const char* name = label_name(labels);
      const char* second_value = values == 1 ? "" : label_value(labels, second);
      for (uint32_t size_class : rows_.shown()) {
        if (!has_class(snapshot_, size_class)) continue;  // any more
        uint32_t index = size_class * values + second;
        double shown = value(metric, index);
        if (sharded) shown -= shown_counter(metric, rows_.counted_as_other(metric, index));
        std::string bytes = size_class_name(size_class, snapshot_.class_bytes);
        add(metric, with(with(process_, "size_class", std::move(bytes)), name, second_value), shown);
      }
      if (rows_.has_other())
        add(metric, with(with(process_, "size_class", "other"), name, second_value),
            other(metric, second, values, sharded));
    }
  }

  // The classes without rows: a sum, or for a ratio the mean by slab bytes.
  double other(Metric metric, uint32_t second, uint32_t values, bool sharded) const {
    bool is_ratio = ends_with(name_of(metric), "_ratio");
    double sum = 0;
    double weights = 0;
    for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class) {
      uint32_t index = size_class * values + second;
      if (rows_.is_shown(size_class)) {
        if (sharded) sum += shown_counter(metric, rows_.counted_as_other(metric, index));
        continue;
      }
      double weight = is_ratio ? snapshot_.gauge(Metric::kSlabBytes, size_class) : 1;
      weights += weight;
      if (weight != 0) sum += value(metric, index) * weight;
    }
    return is_ratio && weights != 0 ? sum / weights : sum;
  }

  void write_histograms(Metric metric) {
    LabelSet labels = metrics::shape_of(metric).labels;
    for (uint32_t index = 0; index < metrics::cardinality(labels); ++index) {
      uint64_t slots[metrics::kHistogramSlots];
      for (uint32_t slot = 0; slot < metrics::kHistogramSlots; ++slot)
        slots[slot] = snapshot_.counter(metric, index * metrics::kHistogramSlots + slot);
      families_[static_cast<size_t>(metric)].metric.push_back(
          histogram(metric, with(process_, label_name(labels), label_value(labels, index)), slots, detail_));
    }
  }

  std::vector<MetricFamily>& families_;
  const Snapshot& snapshot_;
  const SizeClassRows& rows_;
  const Labels& process_;
  Detail detail_;
};

Exposition::Exposition() : families_(metrics::kShapes.size()) {
  for (size_t i = 0; i < families_.size(); ++i) {
    families_[i].name = metrics::kTexts[i].name;
    families_[i].help = escaped_help(metrics::kTexts[i].help);
    switch (metrics::kShapes[i].kind) {
      case Kind::Counter: families_[i].type = prometheus::MetricType::Counter; break;
      case Kind::Gauge: families_[i].type = prometheus::MetricType::Gauge; break;
      case Kind::Histogram: families_[i].type = prometheus::MetricType::Histogram; break;
    }
  }
}

void Exposition::add(const Snapshot& snapshot, const SizeClassRows& rows, const Labels& process, Detail detail) {
  Writer(families_, snapshot, rows, process, detail).write();
}

void Exposition::add_served(Metric metric, double value, uint32_t index) {
  add_served(metric, value, std::string(label_value(metrics::shape_of(metric).labels, index)));
}

void Exposition::add_served(Metric metric, double value, const std::string& label_value) {
  const MetricShape& shape = metrics::shape_of(metric);
  Labels labels = with({}, label_name(shape.labels), label_value);
  families_[static_cast<size_t>(metric)].metric.push_back(series(shape.kind, std::move(labels), value));
}

void Exposition::add_served(Metric metric, const uint64_t* slots, const std::string& size_class) {
  families_[static_cast<size_t>(metric)].metric.push_back(
      histogram(metric, with({}, "size_class", size_class), slots, Detail::Full));
}

std::vector<MetricFamily> Exposition::take() {
  std::vector<MetricFamily> filled;
  for (MetricFamily& family : families_)
    if (!family.metric.empty()) filled.push_back(std::move(family));
  families_.clear();
  return filled;
}

bool in_summary(Metric metric) {
  switch (metric) {
    // By size class or by lock, or of interest only beside those; or where a finding of kDiagnosis tells enough.
    case Metric::kRefillObjects:
    case Metric::kCollectedObjects:
    case Metric::kRequestsObserved:
    case Metric::kRequestedBytesObserved:
    case Metric::kSlabs:
    case Metric::kSlabBytes:
    case Metric::kSlabOccupancy:
    case Metric::kLiveObjects:
    case Metric::kClassFragmentationBytes:
    case Metric::kClassFragmentationRatio:
    case Metric::kLockAcquisitions:
    case Metric::kLockWaits:
    case Metric::kLockWaitTime:
    case Metric::kSlabClaims:
    case Metric::kSlabAdoptions:
    case Metric::kHugeAllocations:
    case Metric::kHugeFrees:
    case Metric::kHugeRemaps:
    case Metric::kHugeLive:
    case Metric::kSamples:
    case Metric::kSuperslabs:
    case Metric::kThreadCacheBytes:
    case Metric::kSlabsByOccupancy:
    case Metric::kSuperslabsByOccupancy:
    case Metric::kPinnedBytes:
    case Metric::kCompactableBytes:
    case Metric::kPeak:
    case Metric::kPeakTime:
    case Metric::kRealizedFragmentation:
    case Metric::kPurgeBacklog:
    case Metric::kPurgeHoldBack:
    case Metric::kLastPurge:
    case Metric::kSlowCallTime:
    case Metric::kFirstTouchedPages:
    case Metric::kKernelCalls:
    case Metric::kKernelCallTime:
    case Metric::kRemoteQueue:
    case Metric::kRemoteQueueLongest:
    case Metric::kProcessMemory:
    case Metric::kCgroupMemory: return false;
    default: return true;
  }
}

}  // namespace hakmem::exporter
