#include "exporter/process_facts.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "telemetry/system.h"

namespace hakmem::exporter {
namespace {

constexpr size_t kContainerIdDigits = 64;
constexpr size_t kShortIdDigits = 12;
constexpr size_t kMaxUnitBytes = 64;
constexpr size_t kMaxCgroups = 16 << 10;  // bytes of /proc/PID/cgroup

// PROC_PID_INIT_INO of the kernel: the namespace that all others are within.
constexpr uint64_t kFirstNamespace = 0xEFFFFFFC;

uint64_t own_namespace() {
  static const uint64_t inode = telemetry::own_pid_namespace();
  return inode;
}

// Whether there is no process on the machine that cannot be seen. Where others are hidden
// (hidepid), the first one is.
bool sees_all_processes() {
  telemetry::ProcessStat stat{};
  return own_namespace() == kFirstNamespace && telemetry::read_process_stat(1, &stat);
}

// What the innermost namespace of a process calls it; 0 when there is no such process.
uint32_t innermost_pid(uint32_t pid) {
  char status[4096];
  std::string path = "/proc/" + std::to_string(pid) + "/status";
  if (telemetry::read_small_file(path.c_str(), status, sizeof status) <= 0) return 0;
  const char* field = strstr(status, "\nNSpid:");
  errno = 0;  // it could be asked
  if (field == nullptr) return 0;
  field += strlen("\nNSpid:");
  uint64_t innermost = 0;
  while (*field == '\t') innermost = telemetry::parse_decimal(&++field);
  return static_cast<uint32_t>(innermost);
}

// 0 where it may not be asked.
uint64_t namespace_of(uint32_t pid) {
  return telemetry::pid_namespace_of(("/proc/" + std::to_string(pid) + "/ns/pid").c_str());
}

bool may_be_of_namespace(uint32_t pid, uint64_t inode) {
  uint64_t its_own = namespace_of(pid);
  return its_own == 0 || its_own == inode;
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

bool lacks_means(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO || error == EINTR || error == EAGAIN;
}

bool is_of_this_namespace(const telemetry::Identity& identity) { return identity.pid_namespace == own_namespace(); }

uint32_t Processes::pid_of(const telemetry::Identity& identity) {
  return is_of_this_namespace(identity) ? identity.pid : find_foreign(identity);
}

void Processes::read_all() {
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const char* text = name.c_str();
    auto pid = static_cast<uint32_t>(telemetry::parse_decimal(&text));
    telemetry::ProcessStat stat{};
    if (*text != '\0') continue;
    if (telemetry::read_process_stat(pid, &stat))
      by_start_time_.emplace(stat.start_time, pid);
    else
      lacked_means_ |= lacks_means(errno);
  }
  lacked_means_ |= lacks_means(error.value());
}

uint32_t Processes::find_foreign(const telemetry::Identity& identity) {
  if (!is_read_) read_all();
  is_read_ = true;
  auto [begin, end] = by_start_time_.equal_range(identity.start_time);
  for (auto entry = begin; entry != end; ++entry) {
    uint32_t innermost = innermost_pid(entry->second);
    if (innermost == 0) lacked_means_ |= lacks_means(errno);
    if (innermost == identity.pid && may_be_of_namespace(entry->second, identity.pid_namespace)) return entry->second;
  }
  return 0;
}

std::optional<telemetry::Identity> identity_of(uint32_t pid_here) {
  telemetry::ProcessStat stat{};
  if (!telemetry::read_process_stat(pid_here, &stat)) return {};
  telemetry::Identity identity{};
  identity.pid = innermost_pid(pid_here);
  if (identity.pid == 0) identity.pid = pid_here;  // before Linux 4.1
  identity.start_time = stat.start_time;
  identity.pid_namespace = namespace_of(pid_here);
  if (identity.pid_namespace == 0) identity.pid_namespace = own_namespace();
  return identity;
}

bool has_ended(const telemetry::Identity& identity, uint32_t pid_here) {
  // One without /proc does not know its namespace.
  if (pid_here == 0) return identity.pid_namespace != 0 && sees_all_processes();
  telemetry::ProcessStat stat{};
  errno = 0;
  if (!telemetry::read_process_stat(pid_here, &stat)) return !lacks_means(errno);
  return stat.start_time != identity.start_time || stat.is_zombie;
}

bool has_ended(const telemetry::Identity& identity) { return has_ended(identity, Processes().pid_of(identity)); }

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

std::optional<Home> home_of(uint32_t pid_here) {
  if (pid_here == 0) return Home{};
  // Not by a stream: the process may end between open and read, which then fails, and the
  // buffer of a stream throws.
  char text[kMaxCgroups];
  std::string path = "/proc/" + std::to_string(pid_here) + "/cgroup";
  errno = 0;
  if (telemetry::read_small_file(path.c_str(), text, sizeof text) > 0) return home_from_cgroups(text);
  return lacks_means(errno) ? std::nullopt : std::optional(Home{});
}

}  // namespace hakmem::exporter
