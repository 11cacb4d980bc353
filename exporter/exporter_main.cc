// hakmem-exporter: serves the stats pages of all processes of the machine.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "allocator/base/environment.h"
#include "exporter/exposition.h"
#include "exporter/http_server.h"
#include "exporter/log.h"
#include "exporter/page_directory.h"
#include "exporter/routes.h"
#include "exporter/served_pages.h"
#include "telemetry/residency.h"

namespace hakmem::exporter {
namespace {

constexpr const char* kUsage =
    "usage: hakmem-exporter --listen HOST:PORT [--pages DIR] [--young SECONDS] [--auth FILE]\n"
    "\n"
    "Serves /metrics and /healthz for every process that runs under hakmem's\n"
    "telemetry library: at most 60 series each, with the labels pid, comm, and\n"
    "container or unit where that is known; /metrics?pid=N shows that process in\n"
    "full. Young processes, and the counters of ended ones, are summed by name as\n"
    "pid=\"other\".\n"
    "\n"
    "  --listen HOST:PORT  an IPv4 address, for example 127.0.0.1:19465\n"
    "  --pages DIR         where the stats pages are (default: HAKMEM_PAGES or /dev/shm)\n"
    "  --young SECONDS     a process is shown by pid from this age on (default: 60)\n"
    "  --auth FILE         answers those alone who send what stands in FILE: a line\n"
    "                      USER:PASSWORD or a bearer token; /healthz answers anybody\n";

volatile sig_atomic_t asked_to_stop = 0;

struct Options {
  ListenAddress listen{};
  std::string listen_text;
  std::string pages;
  std::string auth;
  double young_seconds = 60;
};

[[noreturn]] void fail_usage(const char* message) {
  fprintf(stderr, "hakmem-exporter: %s\n\n%s", message, kUsage);
  exit(2);
}

double read_seconds(const char* text) {
  double seconds = 0;
  const char* end = text + strlen(text);
  auto [rest, error] = std::from_chars(text, end, seconds);
  if (error != std::errc{} || rest != end || !(seconds >= 0)) fail_usage("--young wants a number of seconds");
  return seconds;
}

Options read_options(int count, char** arguments) {
  Options options;
  const char* pages = getenv("HAKMEM_PAGES");
  options.pages = pages != nullptr && *pages != '\0' ? pages : "/dev/shm";
  for (int i = 1; i < count; ++i) {
    std::string_view argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      fputs(kUsage, stdout);
      exit(0);
    }
    if (i + 1 == count) fail_usage("a value is missing after the last argument");
    if (argument == "--listen") {
      options.listen_text = arguments[++i];
      if (!parse_listen_address(options.listen_text.c_str(), &options.listen))
        fail_usage("--listen wants an IPv4 address and a port, such as 127.0.0.1:19465");
    } else if (argument == "--pages") {
      options.pages = arguments[++i];
    } else if (argument == "--young") {
      options.young_seconds = read_seconds(arguments[++i]);
    } else if (argument == "--auth") {
      options.auth = arguments[++i];
    } else {
      fail_usage("only --listen, --pages, --young and --auth are known");
    }
  }
  if (options.listen.port == 0) fail_usage("--listen is missing");
  return options;
}

class MachineEndpoint {
 public:
  explicit MachineEndpoint(const Options& options) : directory_(options.pages) {
    directory_.group_younger_than(options.young_seconds);
    directory_.complain_to([](const std::string& line) { log(Level::kWarning, {line}); });
  }

  Response answer_metrics(const Request& request) {
    auto start = std::chrono::steady_clock::now();
    uint32_t full_pid = 0;
    std::string_view wanted = query_value(request.query, "pid");
    std::from_chars(wanted.data(), wanted.data() + wanted.size(), full_pid);
    directory_.refresh();
    Exposition exposition;
    add_pages(directory_, full_pid, &exposition);
    figures_.memory_bytes = static_cast<double>(telemetry::process_resident_bytes());
    add_exporter(figures_, directory_, &exposition);
    Response response{.content_type = kMetricsContentType, .body = serialise(exposition.take())};
    figures_.scrapes += 1;
    figures_.scrape_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return response;
  }

 private:
  PageDirectory directory_;
  ExporterFigures figures_;
};

// Each page is held open.
void allow_many_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int run(const Options& options) {
  allow_many_files();
  Access access;
  if (!options.auth.empty()) {
    if (std::string wrong = access.read_secret(options.auth.c_str()); !wrong.empty()) {
      log(Level::kError, {"--auth ", options.auth, ": ", wrong});
      return 1;
    }
  }
  MachineEndpoint endpoint(options);
  Routes routes(access, {{"/metrics", [&](const Request& request) { return endpoint.answer_metrics(request); }}},
                options.listen.address);
  HttpServer::Callbacks callbacks;
  callbacks.answer = [&](const Request& request) { return routes.answer(request); };
  callbacks.max_connections = 64;
  callbacks.may_run = [] { return asked_to_stop == 0; };
  HttpServer server(std::move(callbacks));
  if (int error = server.listen(options.listen.address, options.listen.port); error != 0) {
    log(Level::kError, {"cannot listen on ", options.listen_text, ": ", strerror(error)});
    return 1;
  }
  routes.warn_if_open(options.listen_text, "--auth FILE");
  log(Level::kInfo, {"the processes of ", options.pages, " are served at http://", options.listen_text, "/metrics"});
  return server.run() ? 0 : 1;
}

}  // namespace
}  // namespace hakmem::exporter

int main(int count, char** arguments) {
  using namespace hakmem::exporter;
  struct sigaction stop {};
  stop.sa_handler = [](int) { asked_to_stop = 1; };
  sigaction(SIGINT, &stop, nullptr);
  sigaction(SIGTERM, &stop, nullptr);
  try {
    return run(read_options(count, arguments));
  } catch (const std::bad_alloc&) {
    fputs("hakmem: out of memory\n", stderr);
    return 1;
  } catch (const std::exception& error) {
    log(Level::kError, {error.what()});
    return 1;
  }
}
