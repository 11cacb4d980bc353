// The exporter module: the endpoint inside a host process. Loaded privately by
// the telemetry library, on a thread of its own, only when HAKMEM_LISTEN is set.
#include <errno.h>

#include <charconv>
#include <chrono>
#include <cstring>
#include <new>
#include <string>
#include <thread>

#include "exporter/embedded_collectable.h"
#include "exporter/heap_profile.h"
#include "exporter/http_server.h"
#include "exporter/leaks.h"
#include "exporter/log.h"
#include "exporter/routes.h"
#include "exporter/served_pages.h"
#include "telemetry/module_interface.h"

namespace hakmem::exporter {
namespace {

using telemetry::ModuleHost;

std::string address_text(const ModuleHost& host) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8)
    text.append(std::to_string(host.address >> shift & 255)).append(shift > 0 ? "." : ":");
  return text + std::to_string(host.port);
}

Response answer_metrics(const EmbeddedCollectable& collectable, std::string_view query) {
  auto start = std::chrono::steady_clock::now();
  uint32_t full_pid = 0;
  std::string_view wanted = query_value(query, "pid");
  std::from_chars(wanted.data(), wanted.data() + wanted.size(), full_pid);
  Response response;
  response.content_type = kMetricsContentType;
  response.body = serialise(collectable.collect(full_pid));
  if (response.body.empty()) throw Unavailable("no figures can be had");
  collectable.scrape_took(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return response;
}

std::vector<Route> routes_of(const ModuleHost& host, const EmbeddedCollectable& collectable, LeakSuspects& leaks) {
  std::vector<Route> routes = profile_routes(host);
  routes.push_back({"/debug/leaks", [&](const Request&) { return leaks.page(); }});
  routes.insert(routes.begin(),
                {"/metrics", [&](const Request& request) { return answer_metrics(collectable, request.query); }});
  return routes;
}

// Whether the port is in use by an ancestor, which may be a moment ahead of us.
bool is_an_ancestors(const ModuleHost& host) {
  for (int attempt = 0; attempt < 4; ++attempt) {
    if (host.ancestor_serves()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
  return false;
}

void serve(const ModuleHost& host) {
  Access access;
  if (*host.auth_file != '\0') {
    if (std::string wrong = access.read_secret(host.auth_file); !wrong.empty()) {
      log(Level::kError, {"no endpoint: HAKMEM_AUTH=", host.auth_file, ": ", wrong});
      return;
    }
  }
  // Never destroyed: the process may end while this thread is at work.
  static auto* leaks = new LeakSuspects(host);
  static auto* collectable = new EmbeddedCollectable(host, *leaks);
  auto* routes = new Routes(std::move(access), routes_of(host, *collectable, *leaks), host.address);
  HttpServer::Callbacks callbacks;
  callbacks.answer = [routes](const Request& request) { return routes->answer(request); };
  callbacks.opened = host.socket_opened;
  callbacks.closed = host.socket_closed;
  callbacks.may_run = host.may_serve;
  auto* server = new HttpServer(std::move(callbacks));
  if (int error = server->listen(host.address, host.port); error != 0) {
    if (error == EADDRINUSE && is_an_ancestors(host)) return;
    log(Level::kError, {"no endpoint: cannot listen on ", address_text(host), ": ", strerror(error)});
    return;
  }
  bool orderly;
  try {
    routes->warn_if_open(address_text(host), "HAKMEM_AUTH=FILE");
    host.set_serving(true);
    orderly = server->run();
  } catch (...) {
    server->close_all();  // clients would wait for an answer
    throw;
  }
  if (!orderly) {
    log(Level::kWarning, {"the endpoint on ", address_text(host), " ended: the program closed its socket"});
    host.set_serving(false);
  } else if (host.is_alive()) {
    server->close_all();
  }
}

}  // namespace
}  // namespace hakmem::exporter

// Telemetry's ModuleServe: nothing may leave it. The logger allocates, so an exception is told by the host.
extern "C" __attribute__((visibility("default"))) void hakmem_exporter_serve(
    const hakmem::telemetry::ModuleHost* host) {
  bool fits = host->interface == hakmem::telemetry::kModuleInterface;
  auto complain = fits ? host->complain : [](const char*) {};
  try {
    if (fits)
      hakmem::exporter::serve(*host);
    else
      hakmem::exporter::log(hakmem::exporter::Level::kError,
                            {"no endpoint: the exporter module belongs to another version of the library"});
  } catch (const std::bad_alloc&) {
    complain("out of memory");
  } catch (const std::exception& error) {
    complain(error.what());
  } catch (...) {
    complain("unknown exception");
  }
}
