// The environment as whoever starts a program makes it: each entry that starts with
// HAKMEM_ is kept, or gives at most one line that a terminal can show. An input is
// entries that end with a zero byte.
#include "allocator/base/environment.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/fuzz/input.h"

namespace hakmem::fuzz {
namespace {

// What a call prints on stderr.
template <class Call>
std::string printed_by(Call call) {
  static const int file = memfd_create("stderr", 0);
  static const int real = dup(STDERR_FILENO);
  HAKMEM_FUZZ_CHECK(ftruncate(file, 0) == 0 && lseek(file, 0, SEEK_SET) == 0);
  dup2(file, STDERR_FILENO);
  call();
  dup2(real, STDERR_FILENO);
  std::string text(static_cast<size_t>(lseek(file, 0, SEEK_CUR)), '\0');
  HAKMEM_FUZZ_CHECK(pread(file, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  return text;
}

bool is_printable(char c) { return c >= ' ' && c <= '~'; }

void check_lines(const std::string& text, size_t most) {
  size_t lines = 0;
  for (size_t start = 0; start < text.size(); ++lines) {
    size_t end = text.find('\n', start);
    HAKMEM_FUZZ_CHECK(end != std::string::npos);
    std::string line = text.substr(start, end - start);
    HAKMEM_FUZZ_CHECK(line.starts_with("hakmem: "));
    HAKMEM_FUZZ_CHECK(std::all_of(line.begin(), line.end(), is_printable));
    start = end + 1;
  }
  HAKMEM_FUZZ_CHECK(lines <= most);
}

// What was kept keeps what each form promises.
void check_values() {
  ListenAddress address{};
  if (is_set(Variable::kListen)) {
    HAKMEM_FUZZ_CHECK(parse_listen_address(environment_text(Variable::kListen), &address));
    HAKMEM_FUZZ_CHECK(address.port != 0);
  }
  HAKMEM_FUZZ_CHECK(strlen(environment_text(Variable::kProgram)) <= 15);
  HAKMEM_FUZZ_CHECK(environment_text(Variable::kPages)[0] == '/');
  if (is_set(Variable::kSampleBytes)) {
    std::string digits = environment_text(Variable::kSampleBytes);
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
    HAKMEM_FUZZ_CHECK(std::to_string(environment_number(Variable::kSampleBytes)) == digits);
  } else {
    HAKMEM_FUZZ_CHECK(environment_number(Variable::kSampleBytes) == 524288);
  }
}

void run(Input input) {
  check_environment();  // once; then the values of the process are replaced
  std::string all = input.take_text(input.size());
  std::vector<std::string> texts;
  for (size_t start = 0; start < all.size(); start += texts.back().size() + 1) texts.emplace_back(all.c_str() + start);
  std::vector<const char*> entries;
  for (const std::string& text : texts) entries.push_back(text.c_str());
  entries.push_back(nullptr);
  check_lines(printed_by([&] { read_environment(entries.data()); }), texts.size());
  check_values();
}

}  // namespace
}  // namespace hakmem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hakmem::fuzz::run({data, size});
  return 0;
}
