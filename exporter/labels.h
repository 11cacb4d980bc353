// Label names and values of the catalogue's label sets.
#pragma once

#include <cstdint>
#include <string>

#include "allocator/metrics/catalogue.h"

namespace hakmem::exporter {

constexpr bool has_size_class(metrics::LabelSet labels) {
  using metrics::LabelSet;
  return labels == LabelSet::SizeClass || labels == LabelSet::SizeClassSource ||
         labels == LabelSet::SizeClassSlabState || labels == LabelSet::SizeClassFragmentation ||
         labels == LabelSet::SizeClassOccupancy;
}

// For a set with a size class: how many values the other label has; 1 without one.
constexpr uint32_t second_label_count(metrics::LabelSet labels) {
  return metrics::cardinality(labels) / metrics::kSizeClassCount;
}

// Name of the label beside the size class, or of the only one; "" for none.
const char* label_name(metrics::LabelSet labels);

// Its value.
const char* label_value(metrics::LabelSet labels, uint32_t index);

// Value of the size_class label: bytes of one object, "large" or "huge".
std::string size_class_name(uint32_t size_class, const uint32_t* class_bytes);

}  // namespace hakmem::exporter
