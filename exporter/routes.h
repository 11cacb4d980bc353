// What an endpoint answers: a table from path to handler, and who may ask.
#pragma once

#include <functional>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "exporter/access.h"
#include "exporter/http_server.h"

namespace hakmem::exporter {

struct Route {
  std::string_view path;  // the whole of it
  std::function<Response(const Request&)> handler;
  bool needs_access = true;
};

// Thrown by a handler: what was asked for cannot be had just now. The answer is 503, with the reason.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Routes {
 public:
  // /healthz, which anybody may ask, and `routes`, served at `address` (in host byte order).
  Routes(Access access, std::vector<Route> routes, uint32_t address);

  // The handler's answer, or 401, 404, 421, or 503 for Unavailable; 500 where the handler throws
  // something else, with a line in the log.
  Response answer(const Request& request) const;

  // Says in one line that anybody may read what is served, where other machines reach the address.
  void warn_if_open(std::string_view address_text, std::string_view remedy) const;

 private:
  bool is_meant_for_us(const Request& request) const;

  Access access_;
  std::vector<Route> routes_;
  bool is_loopback_;
};

// Whether a Host header names an address or localhost, with a port or without.
// A page of the web that has its own name resolve to a loopback address, so that
// the browser of somebody on this machine reads what is served there, sends that name.
bool is_address_or_localhost(std::string_view host);

}  // namespace hakmem::exporter
