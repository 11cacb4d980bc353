// From snapshots to metric families of prometheus-cpp, by the catalogue alone.
#pragma once

#include <prometheus/metric_family.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "exporter/size_class_rows.h"
#include "telemetry/snapshot.h"

namespace hakmem::exporter {

enum class Detail : uint8_t {
  Full,     // every series; at most 2,000 a process
  Summary,  // summed over size classes as size_class="all"; at most 60 a process
};

using Labels = std::vector<prometheus::ClientMetric::Label>;

class Exposition {
 public:
  Exposition();

  // Adds what a page holds, and its build information; of the totals of ended
  // processes (Snapshot::add_counters_of) the counters. `rows` must have been
  // updated with the snapshot; it is not used for a summary.
  void add(const telemetry::Snapshot& snapshot, const SizeClassRows& rows, const Labels& process, Detail detail);

  // Adds a figure of the serving process (a row of storage Serve).
  void add_served(metrics::Metric metric, double value, uint32_t index = 0);
  // The same where the value of the label is not of the catalogue.
  void add_served(metrics::Metric metric, double value, const std::string& label_value);

  // A histogram of one size class, of kHistogramSlots slots.
  void add_served(metrics::Metric metric, const uint64_t* slots, const std::string& size_class);

  // The families that have series, in the order of the catalogue.
  std::vector<prometheus::MetricFamily> take();

 private:
  class Writer;
  std::vector<prometheus::MetricFamily> families_;
};

// Whether a metric is part of a summary.
bool in_summary(metrics::Metric metric);

}  // namespace hakmem::exporter
