// HTTP requests as any client may send them, in pieces as they come.
#include <charconv>

#include "exporter/http_request.h"
#include "tests/fuzz/input.h"

namespace hakmem::fuzz {
namespace {

void check_request(const exporter::Request& request) {
  HAKMEM_FUZZ_CHECK(request.path.starts_with('/'));
  HAKMEM_FUZZ_CHECK(request.path.find_first_of("?\r\n") == std::string_view::npos);
  HAKMEM_FUZZ_CHECK(request.query.find_first_of("\r\n") == std::string_view::npos);
  HAKMEM_FUZZ_CHECK(request.authorization.find('\n') == std::string_view::npos);
  uint32_t pid = 0;
  std::string_view wanted = exporter::query_value(request.query, "pid");
  HAKMEM_FUZZ_CHECK(wanted.find('&') == std::string_view::npos);
  std::from_chars(wanted.data(), wanted.data() + wanted.size(), pid);
}

void run(Input input) {
  std::string received;
  while (!exporter::is_complete(received) && received.size() < exporter::kMaxRequestBytes) {
    if (input.empty()) return;
    received += input.take_text(1 + input.take<uint8_t>() * 8);
  }
  exporter::ParsedRequest parsed = exporter::parse_request(received);
  int status = parsed.status;
  HAKMEM_FUZZ_CHECK(status == 200 || status == 400 || status == 405 || status == 431);
  if (status == 200) check_request(parsed.request);
}

}  // namespace
}  // namespace hakmem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hakmem::fuzz::run({data, size});
  return 0;
}
