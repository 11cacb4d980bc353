#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <fstream>
#include <set>

#include "exporter/cli/commands.h"
#include "exporter/page_directory.h"
#include "telemetry/snapshot.h"

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
  std::string directory = own_pages.empty() ? pages_directory() : own_pages;
  std::string file = exporter::find_page(directory, pid);
  if (file.empty()) {
    printf("stats page: none in %s (made after the first MiB of refills, by the telemetry library alone)\n",
           directory.c_str());
    return 1;
  }
  telemetry::Snapshot snapshot;
  int fd = telemetry::open_page(file);
  bool good = fd >= 0 && telemetry::read_snapshot(fd, &snapshot).good();
  if (fd >= 0) close(fd);
  printf("stats page: %s%s\n", file.c_str(), good ? "" : ", which this version cannot read");
  if (good && snapshot.serving) {
    printf("endpoint: http://%s/metrics\n", listen.c_str());
  } else {
    printf("endpoint: none%s\n", listen.empty() ? " (HAKMEM_LISTEN is not set)" : "; its lines on stderr say why");
  }
  return good ? 0 : 1;
}

}  // namespace hakmem::cli
