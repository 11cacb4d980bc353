// Stats pages with the figures that a test wants.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "telemetry/snapshot.h"

namespace hakmem::exporter {

// A page of a process, as its writer would have made it.
class MadePage {
 public:
  explicit MadePage(const telemetry::Identity& identity = {0, 0, 0, 0, 0, "made"})
      : words_(telemetry::page_bytes(1) / 8) {
    auto* header = reinterpret_cast<telemetry::PageHeader*>(words_.data());
    header->layout_version = telemetry::kLayoutVersion;
    header->header_bytes = sizeof(telemetry::PageHeader);
    header->catalogue_hash = telemetry::kCatalogueHash;
    header->shard_count = 1;
    header->identity = identity;
    strcpy(header->version, "1");
    strcpy(header->build, "telemetry");
    for (uint32_t i = 0; i < metrics::kSlabClassCount; ++i) header->class_bytes[i] = 16 * (i + 1);
    header->magic = telemetry::kPageMagic;
    telemetry::for_each_published_gauge(
        [&](uint32_t slot) { telemetry::publish_slots(words_.data())[slot] = telemetry::encode_gauge(0); });
  }

  void count(metrics::Metric metric, uint32_t index, uint64_t amount) {
    telemetry::shard_slots(words_.data())[metrics::first_slot(metric) + index] += amount;
  }
  void refill(uint32_t size_class, uint64_t objects) {
    count(metrics::Metric::kRefillObjects, size_class * metrics::kCountOf<metrics::RefillSource>, objects);
  }
  void set(metrics::Metric metric, uint32_t index, double value) {
    telemetry::publish_slots(words_.data())[metrics::first_slot(metric) + index] = telemetry::encode_gauge(value);
  }
  telemetry::Snapshot snapshot() {
    telemetry::Snapshot snapshot;
    EXPECT_TRUE(telemetry::read_snapshot(words_.data(), words_.size() * 8, &snapshot).good());
    return snapshot;
  }
  // Its file.
  void write(const std::string& path) const {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(words_.data()), static_cast<std::streamsize>(words_.size() * 8));
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace hakmem::exporter
