#include "exporter/process_facts.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "telemetry/system.h"

namespace hakmem::exporter {
namespace {

constexpr size_t kContainerIdDigits = 64;
constexpr size_t kShortIdDigits = 12;
constexpr size_t kMaxUnitBytes = 64;
constexpr size_t kMaxCgroups = 16 << 10;  // bytes of /proc/PID/cgroup

// The pids of another namespace mean nothing here; its pages go with their container.
bool is_of_this_namespace(const telemetry::Identity& identity) {
  static const uint64_t own_namespace = telemetry::own_pid_namespace();
  return identity.pid_namespace == own_namespace;
}

bool is_hexadecimal(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

// The id in docker-ID.scope, libpod-ID, cri-containerd-ID.scope or plain ID.
std::string container_in(const std::string& folder) {
  for (auto begin = folder.begin(); begin != folder.end();) {
    begin = std::find_if(begin, folder.end(), is_hexadecimal);
    auto end = std::find_if_not(begin, folder.end(), is_hexadecimal);
    if (static_cast<size_t>(end - begin) == kContainerIdDigits) return {begin, begin + kShortIdDigits};
    begin = end;
  }
  return "";
}

bool is_unit(const std::string& folder) {
  bool is_printable = std::all_of(folder.begin(), folder.end(), [](char c) { return c > ' ' && c <= '~'; });
  return is_printable && folder.size() <= kMaxUnitBytes && (folder.ends_with(".service") || folder.ends_with(".scope"));
}

}  // namespace

bool is_gone(const telemetry::Identity& identity) {
  if (!is_of_this_namespace(identity)) return false;
  telemetry::ProcessStat stat{};
  return !telemetry::read_process_stat(identity.pid, &stat) || stat.start_time != identity.start_time || stat.is_zombie;
}

double age_seconds(const telemetry::Identity& identity) {
  static const auto ticks_a_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  auto now = static_cast<double>(telemetry::clock_nanoseconds(CLOCK_BOOTTIME)) / 1e9;
  return now - static_cast<double>(identity.start_time) / ticks_a_second;
}

Home home_from_cgroups(const std::string& text) {
  Home home;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    size_t path = line.find(":/");  // NUMBER:CONTROLLERS:/FOLDER/FOLDER
    if (path == std::string::npos) continue;
    std::istringstream folders(line.substr(path + 2));
    // The innermost of each.
    for (std::string folder; std::getline(folders, folder, '/');) {
      if (std::string id = container_in(folder); !id.empty())
        home.container = id;
      else if (is_unit(folder))
        home.unit = folder;
    }
  }
  // The unit of a container is the engine's.
  if (!home.container.empty()) home.unit.clear();
  return home;
}

Home home_of(const telemetry::Identity& identity) {
  if (!is_of_this_namespace(identity)) return {};
  // Not by a stream: the process may end between open and read, which then fails, and the
  // buffer of a stream throws.
  char text[kMaxCgroups];
  std::string path = "/proc/" + std::to_string(identity.pid) + "/cgroup";
  return telemetry::read_small_file(path.c_str(), text, sizeof text) <= 0 ? Home{} : home_from_cgroups(text);
}

}  // namespace hakmem::exporter
