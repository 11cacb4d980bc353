// How long the sampled objects of the host process had lived, by size class.
#pragma once

#include "exporter/exposition.h"
#include "telemetry/module_interface.h"

namespace hakmem::exporter {

// Used by the one thread that serves.
class Lifetimes {
 public:
  // `host` lives as long as this.
  explicit Lifetimes(const telemetry::ModuleHost& host) : host_(host) {}

  // A histogram for each class of which enough samples were freed, at most kMaxSizeClassRows by
  // the number of samples, and one for the others. What a class had counted before it got its own
  // stays with those. Half of them are held back for classes that come later, as SizeClassRows does.
  void add_to(const telemetry::Snapshot& snapshot, Exposition* exposition);

 private:
  void give_rows();

  const telemetry::ModuleHost& host_;
  telemetry::LifetimeFigures now_{};
  telemetry::LifetimeFigures as_other_{};  // what of each class stands in "other"
  bool has_row_[metrics::kSizeClassCount]{};
  size_t slab_rows_ = 0;  // without large and huge
};

}  // namespace hakmem::exporter
