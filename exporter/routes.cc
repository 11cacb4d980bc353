#include "exporter/routes.h"

#include <algorithm>
#include <string>

#include "exporter/log.h"

namespace hakmem::exporter {

Routes::Routes(Access access, std::vector<Route> routes) : access_(std::move(access)), routes_(std::move(routes)) {
  routes_.push_back({"/healthz", [](const Request&) { return Response{.body = "ok\n"}; }, false});
}

Response Routes::answer(const Request& request) const {
  auto route = std::find_if(routes_.begin(), routes_.end(), [&](const Route& r) { return r.path == request.path; });
  bool is_public = route != routes_.end() && !route->needs_access;
  // Which paths there are is told to those who may ask.
  if (!is_public && !access_.admits(request.authorization))
    return {.status = 401, .body = "Unauthorized\n", .challenge = access_.challenge()};
  if (route == routes_.end()) {
    Response missing{.status = 404, .body = "there is:"};
    for (const Route& other : routes_) missing.body.append(" ").append(other.path);
    missing.body += "\n";
    return missing;
  }
  try {
    return route->handler(request);
  } catch (const std::exception& error) {
    logger().error("a request for {} failed: {}", route->path, error.what());
    return {.status = 500, .body = "the request failed\n"};
  }
}

void warn_of_open_address(uint32_t address, const Access& access, std::string_view address_text,
                          std::string_view remedy) {
  if (address >> 24 == 127 || !access.is_open()) return;
  logger().warn("anybody who reaches {} can read it: {} asks for a password", address_text, remedy);
}

}  // namespace hakmem::exporter
