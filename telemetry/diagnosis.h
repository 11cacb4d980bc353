// The findings of allocator/metrics/findings.def, evaluated.
#pragma once

#include <cstdint>

#include "telemetry/stats_page.h"

namespace hakmem::telemetry {

// What conditions are made of: bytes, seconds, counts. NaN is "not measured".
struct Facts {
  double heap = kNotMeasured;  // resident bytes of hakmem, telemetry apart
  double slab_free = kNotMeasured;
  double internal = kNotMeasured;
  double retained = kNotMeasured;  // and in slabs that hold nothing
  double thread_cache = kNotMeasured;
  double process = kNotMeasured;  // resident bytes
  double outside = kNotMeasured;
  double huge_pages = kNotMeasured;
  double swapped = kNotMeasured;
  double cgroup_limit = kNotMeasured;
  double cgroup_distance = kNotMeasured;
  // Within the last looks, `span` seconds: five to ten where one looks often enough, less after the first look.
  double span = kNotMeasured;
  double purged = kNotMeasured;
  double cpu = kNotMeasured;
  double superslab_refill = kNotMeasured;
  double remote_frees = kNotMeasured;
  double allocations = kNotMeasured;
};

bool holds(metrics::Finding finding, const Facts& facts);

// How far counters moved lately. One thread at a time.
class Window {
 public:
  struct Counts {
    double time;  // seconds of any clock that runs on
    double purged;
    double cpu;
    double superslab_refill;
    double remote_frees;
    double allocations;
  };

  // What was counted by now; sets those facts that are of lately.
  void look(const Counts& now, Facts* facts);

 private:
  static constexpr double kSpan = 5;

  bool has_begun_ = false;
  Counts earlier_{};
  Counts later_{};
};

}  // namespace hakmem::telemetry
