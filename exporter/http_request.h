// One request, as far as an endpoint reads it: a GET or HEAD without a body.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace hakmem::exporter {

// Views into the bytes that were read.
struct Request {
  std::string_view path{};
  std::string_view query{};          // without the question mark
  std::string_view authorization{};  // value of that header; "" when there is none
  std::string_view host{};           // the same
};

inline constexpr size_t kMaxRequestBytes = 8192;  // of request line and headers
inline constexpr size_t kMaxHeaders = 64;

// Whether the headers have ended.
bool is_complete(std::string_view input);

struct ParsedRequest {
  int status;    // 200, or that of the refusal
  bool is_head;  // the answer has no body
  Request request;
};

// Never fails otherwise, whatever the bytes are.
ParsedRequest parse_request(std::string_view input);

// The value of `name` in a query such as "pid=12&x=y"; empty when it is not there.
std::string_view query_value(std::string_view query, std::string_view name);

}  // namespace hakmem::exporter
