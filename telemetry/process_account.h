// What the kernel says of the whole process: its resident memory beside the
// heap, states of memory that only the kernel knows, and its control group.
#pragma once

#include <cstdint>

#include "telemetry/cgroup.h"
#include "telemetry/residency.h"
#include "telemetry/stats_page.h"

namespace hakmem::telemetry {

enum class Depth : uint8_t {
  Heap,     // our own ranges only: cheap in any process
  Process,  // and the rest of the process, which costs by the number of its mappings
  Scrape,   // the same on a thread of ours, which may take longer
};

// Bytes; NaN is "not measured".
struct ProcessAccount {
  double resident = kNotMeasured;
  double outside = kNotMeasured;
  double telemetry = kNotMeasured;
  double unexplained = kNotMeasured;
  double huge_pages = kNotMeasured;
  double lazily_freed = kNotMeasured;
  double swapped = kNotMeasured;
  CgroupMemory cgroup;
  uint64_t rare_cost = 0;  // nanoseconds of it that the next account will not take
};

// Asks, at this depth, and stores the figures. `ours` and `telemetry_ranges` are
// normalised; `heap_resident` is what was found in `ours`. One thread at a time.
ProcessAccount publish_process(const RangeList& ours, const RangeList& telemetry_ranges, uint64_t heap_resident,
                               Depth depth);

// Whether the last scrape found smaps_rollup due, which takes longer than all else, and did not
// wait for it. By who reads it then, one thread at a time.
bool is_rollup_wanted();
void read_wanted_rollup();

// In a forked child: what was known of the parent.
void forget_parent_account();

}  // namespace hakmem::telemetry
