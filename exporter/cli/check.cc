#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <fstream>
#include <optional>
#include <set>

#include "exporter/cli/commands.h"
#include "exporter/page_directory.h"
#include "telemetry/snapshot.h"
#include "telemetry/system.h"

namespace hakmem::cli {
namespace {

// Mapped files of a process whose name says that they are an allocator of ours.
std::set<std::string> loaded_libraries(const std::string& pid, bool* readable) {
  std::ifstream maps("/proc/" + pid + "/maps");
  *readable = maps.good();
  std::set<std::string> found;
  for (std::string line; std::getline(maps, line);) {
    size_t slash = line.rfind('/');
    if (slash == std::string::npos) continue;
    std::string file = line.substr(slash + 1);
    if (file.starts_with("libhakmem") && !file.starts_with("libhakmem-exporter"))
      found.insert(line.substr(line.find('/')));
  }
  return found;
}

// The value of a variable in the environment a process was started with.
std::string environment_of(const std::string& pid, const std::string& name) {
  std::ifstream file("/proc/" + pid + "/environ", std::ios::binary);
  for (std::string entry; std::getline(file, entry, '\0');)
    if (entry.starts_with(name + "=")) return entry.substr(name.size() + 1);
  return "";
}

// Whether a path in its environment is one here: a container's may be of another folder.
bool shares_paths(uint32_t pid) {
  std::optional<telemetry::Identity> identity = exporter::identity_of(pid);
  return identity && exporter::is_of_this_namespace(*identity);
}

// Pid of the nearest ancestor whose page says that it serves; 0 when there is none.
uint32_t serving_ancestor(uint32_t pid, const std::string& directory) {
  telemetry::ProcessStat stat{};
  while (telemetry::read_process_stat(pid, &stat) && stat.parent > 0) {
    pid = stat.parent;
    std::string file = exporter::find_page(directory, pid);
    telemetry::Snapshot snapshot;
    int fd = file.empty() ? -1 : telemetry::open_page(file);
    bool good = fd >= 0 && telemetry::read_snapshot(fd, &snapshot).good();
    if (fd >= 0) close(fd);
    if (good && snapshot.serving) return pid;
  }
  return 0;
}

// Programs that set a title for ps overwrite the environment they were started
// with (Redis, nginx, PostgreSQL): what is not there may have been.
void print_endpoint(uint32_t pid, const std::string& directory, bool serving, const std::string& listen) {
  if (serving && listen.empty())
    printf("endpoint: yes, at the address it was started with (not in its environment any more)\n");
  else if (serving)
    printf("endpoint: http://%s/metrics\n", listen.c_str());
  else if (uint32_t ancestor = serving_ancestor(pid, directory); ancestor != 0)
    printf("endpoint: that of process %u, which shows this one, too\n", ancestor);
  else if (listen.empty())
    printf("endpoint: none (HAKMEM_LISTEN is not in its environment)\n");
  else
    printf(
        "endpoint: none, though HAKMEM_LISTEN=%s: it is in its first second, HAKMEM_PROGRAM or the limits in the "
        "README keep it silent, or a line on its stderr says why\n",
        listen.c_str());
}

}  // namespace

int check(const Arguments& arguments) {
  uint32_t pid = 0;
  if (arguments.size() != 1 ||
      std::from_chars(arguments[0].data(), arguments[0].data() + arguments[0].size(), pid).ec != std::errc{})
    return wrong_use("usage: hakmem check PID");
  bool readable = false;
  std::set<std::string> libraries = loaded_libraries(arguments[0], &readable);
  if (!readable) return wrong_use("process " + arguments[0] + " does not exist or may not be looked at");
  if (libraries.empty()) {
    std::string preload = environment_of(arguments[0], "LD_PRELOAD");
    printf("no library of hakmem is loaded\n");
    if (preload.find("hakmem") != std::string::npos)
      printf("LD_PRELOAD was %s: the file is not there, or the program is static or set-user-id\n", preload.c_str());
    return 1;
  }
  for (const std::string& library : libraries) printf("loaded: %s\n", library.c_str());

  std::string listen = environment_of(arguments[0], "HAKMEM_LISTEN");
  std::string own_pages = environment_of(arguments[0], "HAKMEM_PAGES");
  bool is_here = !own_pages.empty() && shares_paths(pid);
  std::string directory = is_here ? own_pages : pages_directory();
  std::string file = exporter::find_page(directory, pid);
  if (file.empty()) {
    std::string why;
    if (own_pages.empty())
      why = "; HAKMEM_PAGES is not in its environment";
    else if (!is_here)
      why = "; its container calls the folder " + own_pages + ": name it in HAKMEM_PAGES as it is called here";
    printf("stats page: none in %s (made after the first MiB of refills, by the telemetry library alone)%s\n",
           directory.c_str(), why.c_str());
    return 1;
  }
  telemetry::Snapshot snapshot;
  int fd = telemetry::open_page(file);
  bool good = fd >= 0 && telemetry::read_snapshot(fd, &snapshot).good();
  if (fd >= 0) close(fd);
  printf("stats page: %s%s\n", file.c_str(), good ? "" : ", which this version cannot read");
  print_endpoint(pid, directory, good && snapshot.serving, listen);
  return good ? 0 : 1;
}

}  // namespace hakmem::cli
