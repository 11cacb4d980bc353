// What the machine tells of a process that a page belongs to.
#pragma once

#include <cstdint>
#include <string>

#include "telemetry/stats_page.h"

namespace hakmem::exporter {

// Whether the process of a page is known to have ended.
bool is_gone(const telemetry::Identity& identity);

// Seconds since the process started, not since its last exec.
double age_seconds(const telemetry::Identity& identity);

// Where a process runs, from its cgroup: the first twelve digits of a
// container's id, or else its systemd unit; "" for what cannot be known.
struct Home {
  std::string container;
  std::string unit;
};
Home home_of(const telemetry::Identity& identity);

// The same from the text of /proc/PID/cgroup.
Home home_from_cgroups(const std::string& text);

}  // namespace hakmem::exporter
