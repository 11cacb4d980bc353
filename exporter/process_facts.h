// What the machine tells of a process that a page belongs to.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "telemetry/stats_page.h"

namespace hakmem::exporter {

// Finds the processes of pages. A page names its process as the process's own pid
// namespace does; those of other namespaces are seen here under other pids, if they are
// within this one, as containers are within that of the machine.
class Processes {
 public:
  // The pid here; 0 for a process of another namespace that is not seen. The first such
  // question reads all of /proc, so a process that started later is not seen.
  uint32_t pid_of(const telemetry::Identity& identity);

  // Whether descriptors or memory ran out meanwhile: a process that is not seen may live.
  bool lacked_means() const { return lacked_means_; }

 private:
  void read_all();
  uint32_t find_foreign(const telemetry::Identity& identity);

  bool is_read_ = false;
  bool lacked_means_ = false;
  std::multimap<uint64_t, uint32_t> by_start_time_;
};

// What the page of a process says of it: pid, start time and namespace, by its pid here.
// Nothing when there is no such process. Where its namespace may not be asked, it is taken for this one.
std::optional<telemetry::Identity> identity_of(uint32_t pid_here);

// Whether this error of a system call says nothing of what was asked for: descriptors or memory have run out, or
// the kernel could not read.
bool lacks_means(int error);

// Whether the process of a page, which has this pid here, is known to have ended.
bool has_ended(const telemetry::Identity& identity, uint32_t pid_here);
bool has_ended(const telemetry::Identity& identity);

bool is_of_this_namespace(const telemetry::Identity& identity);

// Seconds since the process started, not since its last exec.
double age_seconds(const telemetry::Identity& identity);

// Where a process runs, from its cgroup: the first twelve digits of a
// container's id, or else its systemd unit; "" for what cannot be known, and for pid 0.
// Nothing where it could not be read now, and is to be read again.
struct Home {
  std::string container;
  std::string unit;
};
std::optional<Home> home_of(uint32_t pid_here);

// The same from the text of /proc/PID/cgroup.
Home home_from_cgroups(const std::string& text);

}  // namespace hakmem::exporter
