// The figures of the moment, on their way into the stats page. Used by one
// thread at a time, as all of the publisher.
#pragma once

#include <concepts>
#include <cstdint>

#include "telemetry/stats_page.h"

namespace hakmem::telemetry {

extern uint64_t figures[metrics::kPublishSlots];

template <metrics::Metric metric>
void store(uint32_t index, double value) {
  static_assert(metrics::shape_of(metric).storage == metrics::Storage::Publish);
  static_assert(metrics::shape_of(metric).kind == metrics::Kind::Gauge);
  figures[metrics::kFirstSlot<metric> + index] = encode_gauge(value);
}

template <metrics::Metric metric, std::integral Integer>
void store(uint32_t index, Integer value) {
  store<metric>(index, static_cast<double>(value));
}

// A series by an enumerator of its label.
template <metrics::Metric metric, class Label, class Value>
requires std::is_enum_v<Label>
void store(Label label, Value value) { store<metric>(static_cast<uint32_t>(label), value); }

template <metrics::Metric metric>
void store_counter(uint32_t index, uint64_t value) {
  static_assert(metrics::shape_of(metric).kind == metrics::Kind::Counter);
  figures[metrics::kFirstSlot<metric> + index] = value;
}

}  // namespace hakmem::telemetry
