// What an embedded endpoint shows: its process, and those that descend from it.
#pragma once

#include <prometheus/collectable.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "exporter/exposition.h"
#include "exporter/leaks.h"
#include "exporter/page_directory.h"
#include "telemetry/module_interface.h"

namespace hakmem::exporter {

class EmbeddedCollectable : public prometheus::Collectable {
 public:
  // Both live as long as this.
  EmbeddedCollectable(const telemetry::ModuleHost& host, LeakSuspects& leaks);

  // The process in full, without labels of its own; descendants as summaries
  // with the labels pid and comm, the one with pid `full_pid` in full.
  std::vector<prometheus::MetricFamily> collect(uint32_t full_pid) const;

  std::vector<prometheus::MetricFamily> Collect() const override { return collect(0); }

  void scrape_took(double seconds) const;

 private:
  struct State;
  const telemetry::ModuleHost& host_;
  LeakSuspects& leaks_;
  std::unique_ptr<State> state_;
};

}  // namespace hakmem::exporter
