// What an endpoint answers: a table from path to handler, and who may ask.
#pragma once

#include <functional>
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

class Routes {
 public:
  // /healthz, which anybody may ask, and `routes`.
  Routes(Access access, std::vector<Route> routes);

  // The handler's answer, or 401, 404, or 500 where the handler throws, with a line in the log.
  Response answer(const Request& request) const;

  const Access& access() const { return access_; }

 private:
  Access access_;
  std::vector<Route> routes_;
};

// Says in one line that anybody may read what is served at an address (in host
// byte order) that other machines can reach; `remedy` names the option.
void warn_of_open_address(uint32_t address, const Access& access, std::string_view address_text,
                          std::string_view remedy);

}  // namespace hakmem::exporter
