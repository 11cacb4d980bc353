#include "exporter/routes.h"

#include <algorithm>
#include <string>
#include <utility>

#include "exporter/log.h"

namespace hakmem::exporter {
namespace {

Response guarded(std::string_view path, const std::function<Response()>& handler) {
  try {
    Response response = handler();
    if (response.then) response.then = [path, then = std::move(response.then)] { return guarded(path, then); };
    return response;
  } catch (const Unavailable& reason) {
    return {.status = 503, .body = std::string(reason.what()) + "\n"};
  } catch (const std::exception& error) {
    log(Level::kError, {"a request for ", path, " failed: ", error.what()});
    return {.status = 500, .body = "the request failed\n"};
  }
}

}  // namespace

bool is_address_or_localhost(std::string_view host) {
  if (host.starts_with('[')) return true;  // only an address may stand in brackets
  host = host.substr(0, host.find(':'));
  return host == "localhost" || host.find_first_not_of("0123456789.") == std::string_view::npos;
}

Routes::Routes(Access access, std::vector<Route> routes, uint32_t address)
    : access_(std::move(access)), routes_(std::move(routes)), is_loopback_(address >> 24 == 127) {
  routes_.push_back({"/healthz", [](const Request&) { return Response{.body = "ok\n"}; }, false});
}

Response Routes::answer(const Request& request) const {
  auto route = std::find_if(routes_.begin(), routes_.end(), [&](const Route& r) { return r.path == request.path; });
  bool is_public = route != routes_.end() && !route->needs_access;
  // Which paths there are is told to those who may ask.
  if (!is_public && !access_.admits(request.authorization))
    return {.status = 401, .body = "Unauthorized\n", .challenge = access_.challenge()};
  if (!is_public && !is_meant_for_us(request))
    return {.status = 421, .body = "this address is asked for by number, by localhost, or with a password\n"};
  if (route == routes_.end()) {
    Response missing{.status = 404, .body = "there is:"};
    for (const Route& other : routes_) missing.body.append(" ").append(other.path);
    missing.body += "\n";
    return missing;
  }
  return guarded(route->path, [&] { return route->handler(request); });
}

bool Routes::is_meant_for_us(const Request& request) const {
  return !is_loopback_ || !access_.is_open() || is_address_or_localhost(request.host);
}

void Routes::warn_if_open(std::string_view address_text, std::string_view remedy) const {
  if (is_loopback_ || !access_.is_open()) return;
  log(Level::kWarning, {"anybody who reaches ", address_text, " can read it: ", remedy, " asks for a password"});
}

}  // namespace hakmem::exporter
