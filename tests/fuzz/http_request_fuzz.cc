// HTTP requests as any client may send them, in pieces as they come. The answer
// always is one response with the length that it says.
#include <charconv>

#include "exporter/http_server.h"
#include "tests/fuzz/input.h"

namespace hakmem::fuzz {
namespace {

using exporter::Request;
using exporter::Response;

constexpr size_t kMostBytes = 8192 + 2048;  // what is read at most, and one more piece

// As the endpoints do: the path decides, and the query is looked up.
Response answer(const Request& request) {
  HAKMEM_FUZZ_CHECK(request.path.starts_with('/'));
  HAKMEM_FUZZ_CHECK(request.path.find_first_of("?\r\n") == std::string_view::npos);
  HAKMEM_FUZZ_CHECK(request.query.find_first_of("\r\n") == std::string_view::npos);
  uint32_t pid = 0;
  std::string_view wanted = exporter::query_value(request.query, "pid");
  HAKMEM_FUZZ_CHECK(wanted.find('&') == std::string_view::npos);
  std::from_chars(wanted.data(), wanted.data() + wanted.size(), pid);
  if (request.path != "/metrics") return {404, "text/plain; charset=utf-8", "see /metrics\n"};
  return {200, "text/plain; charset=utf-8", std::to_string(pid)};
}

void check_reply(std::string_view reply, bool may_lack_body) {
  HAKMEM_FUZZ_CHECK(reply.starts_with("HTTP/1.1 "));
  int status = 0;
  std::from_chars(reply.data() + 9, reply.data() + 12, status);
  HAKMEM_FUZZ_CHECK(status == 200 || status == 400 || status == 404 || status == 405 || status == 431);
  size_t end = reply.find("\r\n\r\n");
  HAKMEM_FUZZ_CHECK(end != std::string_view::npos);
  constexpr std::string_view kLength = "\r\nContent-Length: ";
  size_t length_at = reply.find(kLength);
  HAKMEM_FUZZ_CHECK(length_at < end);
  size_t length = 0;
  std::from_chars(reply.data() + length_at + kLength.size(), reply.data() + end + 2, length);
  HAKMEM_FUZZ_CHECK(reply.size() - end - 4 == length || (may_lack_body && reply.size() == end + 4));
}

void run(Input input) {
  std::string received;
  while (!exporter::is_complete(received)) {
    if (input.empty()) return;
    received += input.take_text(1 + input.take<uint8_t>() * 8);
  }
  HAKMEM_FUZZ_CHECK(received.size() <= kMostBytes);
  check_reply(exporter::reply_to(received, answer), received.starts_with("HEAD "));
}

}  // namespace
}  // namespace hakmem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hakmem::fuzz::run({data, size});
  return 0;
}
