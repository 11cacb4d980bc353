#include "bench/macro/workload.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>

namespace bench {

namespace {

uint64_t resting_pages = 0, looks = 0;

}  // namespace

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("bench: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  va_end(arguments);
  std::_Exit(2);
}

void abort_as_changed(uint32_t bytes, const void* block) {
  std::fprintf(stderr, "bench: block of %u bytes at %p changed while it was allocated\n", bytes, block);
  std::abort();
}

Options::Options(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    size_t equals = argument.find('=');
    if (!argument.starts_with("--") || equals == std::string_view::npos)
      fail("%s: options have the form --name=value", argv[i]);
    given_.push_back({std::string(argument.substr(2, equals - 2)), std::string(argument.substr(equals + 1)), false});
  }
}

const std::string* Options::find(std::string_view name) {
  const std::string* found = nullptr;
  for (Given& option : given_) {
    if (option.name != name) continue;
    option.used = true;
    found = &option.value;
  }
  return found;
}

uint64_t Options::number(std::string_view name, uint64_t default_value) {
  const std::string* value = find(name);
  if (value == nullptr) return default_value;
  char* end = nullptr;
  uint64_t number = std::strtoull(value->c_str(), &end, 10);
  if (value->empty() || *end != '\0' || number == 0)
    fail("--%.*s=%s: not a positive number", static_cast<int>(name.size()), name.data(), value->c_str());
  return number;
}

std::string Options::text(std::string_view name, std::string_view default_value) {
  const std::string* value = find(name);
  return value == nullptr ? std::string(default_value) : *value;
}

void Options::finish() const {
  for (const Given& option : given_)
    if (!option.used) fail("--%s: unknown option", option.name.c_str());
}

void check_sizes(uint64_t smallest, uint64_t largest) {
  if (smallest < kSmallestBlock || largest < smallest || largest > std::numeric_limits<uint32_t>::max())
    fail("sizes must be at least %zu, below 4 GiB and in order", kSmallestBlock);
}

void look_at_resident_memory() {
  // Without stdio, which would allocate.
  char text[128] = {};
  int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0 || read(file, text, sizeof text - 1) <= 0) fail("/proc/self/statm: %s", std::strerror(errno));
  close(file);
  char* pages = std::strchr(text, ' ');
  if (pages == nullptr) fail("/proc/self/statm: not as expected");
  resting_pages += std::strtoull(pages, nullptr, 10);
  ++looks;
}

const char* malloc_provider() {
  // By name, not by address: &malloc may be an entry in the program's own table.
  Dl_info info{};
  void* address = dlsym(RTLD_DEFAULT, "malloc");
  return address != nullptr && dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "?";
}

int run(const char* name, const std::function<Result()>& workload) {
  auto start = std::chrono::steady_clock::now();
  Result result = workload();
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(R"({"workload":"%s","operations":%llu,"checksum":"%016llx","seconds":%.6f,)", name,
              static_cast<unsigned long long>(result.operations), static_cast<unsigned long long>(result.checksum),
              seconds.count());
  if (looks != 0) {
    uint64_t bytes = resting_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) / looks;
    std::printf(R"("resting_rss_bytes":%llu,)", static_cast<unsigned long long>(bytes));
  }
  std::printf("\"malloc\":\"%s\"}\n", malloc_provider());
  return 0;
}

Result run_threads(uint64_t threads, const std::function<Result(uint64_t)>& body) {
  std::vector<Result> results(threads);
  std::vector<std::thread> workers;
  for (uint64_t i = 0; i < threads; ++i) workers.emplace_back([&, i] { results[i] = body(i); });
  for (std::thread& worker : workers) worker.join();
  Result sum{};
  for (const Result& result : results) sum += result;
  return sum;
}

}  // namespace bench
