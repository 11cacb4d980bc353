#include "exporter/http_request.h"

#include <strings.h>

#include <algorithm>

namespace hakmem::exporter {
namespace {

// The next line, without its end; what is left stays in `text`.
std::string_view take_line(std::string_view& text) {
  std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// The value of a header line of this name; the lower-case `name` in any case.
std::string_view header_value(std::string_view line, std::string_view name) {
  if (line.size() <= name.size() || line[name.size()] != ':') return {};
  if (strncasecmp(line.data(), name.data(), name.size()) != 0) return {};
  line.remove_prefix(name.size() + 1);
  size_t start = line.find_first_not_of(" \t");
  if (start == std::string_view::npos) return {};
  return line.substr(start, line.find_last_not_of(" \t") + 1 - start);
}

void keep_value(std::string_view line, std::string_view name, std::string_view& kept) {
  std::string_view value = header_value(line, name);
  if (!value.empty()) kept = value;
}

// The status; 200 where the line asks for something.
int read_request_line(std::string_view line, ParsedRequest& parsed) {
  size_t method_end = line.find(' ');
  size_t target_end = line.rfind(' ');
  if (method_end == std::string_view::npos || target_end <= method_end) return 400;
  if (!line.substr(target_end + 1).starts_with("HTTP/1.") || line.find('\r') != std::string_view::npos) return 400;
  std::string_view method = line.substr(0, method_end);
  std::string_view target = line.substr(method_end + 1, target_end - method_end - 1);
  parsed.is_head = method == "HEAD";
  if (method != "GET" && !parsed.is_head) return 405;
  if (!target.starts_with("/")) return 400;
  size_t mark = std::min(target.find('?'), target.size());
  parsed.request.path = target.substr(0, mark);
  parsed.request.query = target.substr(std::min(mark + 1, target.size()));
  return 200;
}

}  // namespace

bool is_complete(std::string_view input) {
  return input.find("\r\n\r\n") != std::string_view::npos || input.find("\n\n") != std::string_view::npos;
}

ParsedRequest parse_request(std::string_view input) {
  ParsedRequest parsed{};
  if (input.size() >= kMaxRequestBytes) return {431, false, {}};
  parsed.status = read_request_line(take_line(input), parsed);
  size_t headers = 0;
  while (parsed.status == 200) {
    std::string_view line = take_line(input);
    if (line.empty()) break;
    if (++headers > kMaxHeaders) parsed.status = 431;
    keep_value(line, "authorization", parsed.request.authorization);
    keep_value(line, "host", parsed.request.host);
  }
  return parsed;
}

std::string_view query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    if (pair.size() > name.size() && pair.starts_with(name) && pair[name.size()] == '=')
      return pair.substr(name.size() + 1);
  }
  return {};
}

}  // namespace hakmem::exporter
