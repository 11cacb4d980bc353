#include "bench/macro/workload.h"

#include <dlfcn.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <thread>

namespace bench {

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("bench: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  va_end(arguments);
  std::_Exit(2);
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
  std::printf(R"({"workload":"%s","operations":%llu,"checksum":"%016llx","seconds":%.6f,"malloc":"%s"})"
              "\n",
              name, static_cast<unsigned long long>(result.operations),
              static_cast<unsigned long long>(result.checksum), seconds.count(), malloc_provider());
  return 0;
}

Result run_threads(uint64_t threads, const std::function<Result(uint64_t)>& body) {
  std::vector<Result> results(threads);
  std::vector<std::thread> workers;
  for (uint64_t i = 0; i < threads; ++i) workers.emplace_back([&, i] { results[i] = body(i); });
  for (std::thread& worker : workers) worker.join();
  Result sum{};
  for (const Result& result : results) {
    sum.operations += result.operations;
    sum.checksum += result.checksum;
  }
  return sum;
}

}  // namespace bench
