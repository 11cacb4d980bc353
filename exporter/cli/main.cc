// hakmem: the command line.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "exporter/cli/commands.h"

namespace hakmem::cli {
namespace {

constexpr const char* kUsage =
    "usage: hakmem COMMAND [ARGUMENTS]\n"
    "\n"
    "  run [--listen HOST:PORT] PROGRAM [ARGUMENT...]\n"
    "                 run a program on hakmem's telemetry library; --listen gives it\n"
    "                 an endpoint with /metrics\n"
    "  profile PID|HOST:PORT [--type heap|allocs|peak|lifetimes|fragmentation]\n"
    "          [--seconds N] -o FILE\n"
    "                 the heap profile of a process that has an endpoint, for pprof; the\n"
    "                 file named by HAKMEM_AUTH holds the secret of one that wants it\n"
    "  report PID     where the memory of a process is, its last minutes and its peak,\n"
    "                 also of one that was killed; also takes a stats page's file\n"
    "  top [--once]   all processes that run on the telemetry library\n"
    "  check PID      whether a process runs on hakmem, and what can be seen of it\n"
    "  config PID [sample_bytes=N] [guard=on|off] [endpoint=on|off]\n"
    "                 shows and changes the switches of a process that was started\n"
    "                 with HAKMEM_CONTROL=1: the mean number of bytes between two\n"
    "                 samples (0: none), whether samples are guarded, and whether the\n"
    "                 endpoint of HAKMEM_LISTEN answers\n"
    "\n"
    "Stats pages are looked for in HAKMEM_PAGES, or /dev/shm.\n";

struct Command {
  const char* name;
  int (*run)(const Arguments&);
};
constexpr Command kCommands[] = {{"run", run}, {"profile", profile}, {"report", report},
                                 {"top", top}, {"check", check},     {"config", config}};

int main(int count, char** values) {
  std::string verb = count > 1 ? values[1] : "";
  if (verb == "help" || verb == "--help" || verb == "-h") {
    fputs(kUsage, stdout);
    return 0;
  }
  for (const Command& command : kCommands)
    if (verb == command.name) return command.run(Arguments(values + 2, values + count));
  fprintf(stderr, "%s", kUsage);
  return 2;
}

}  // namespace

std::string pages_directory() {
  const char* pages = getenv("HAKMEM_PAGES");
  return pages != nullptr && *pages != '\0' ? pages : "/dev/shm";
}

std::string size_text(double bytes) {
  if (std::isnan(bytes)) return "-";
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (std::fabs(bytes) >= 1024 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  char text[32];
  snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}

int wrong_use(const std::string& message) {
  fprintf(stderr, "hakmem: %s\n", message.c_str());
  return 2;
}

}  // namespace hakmem::cli

int main(int count, char** values) {
  try {
    return hakmem::cli::main(count, values);
  } catch (const std::bad_alloc&) {
    fputs("hakmem: out of memory\n", stderr);
    return 1;
  } catch (const std::exception& error) {
    fprintf(stderr, "hakmem: %s\n", error.what());
    return 1;
  }
}
