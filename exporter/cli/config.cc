#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <optional>
#include <thread>

#include "exporter/cli/commands.h"
#include "exporter/page_directory.h"
#include "telemetry/snapshot.h"

namespace hakmem::cli {
namespace {

using telemetry::Control;
using telemetry::EndpointState;

constexpr const char* kUsage = "usage: hakmem config PID [sample_bytes=N] [guard=on|off] [endpoint=on|off]";
constexpr auto kPatience = std::chrono::seconds(5);

struct Request {
  std::optional<uint64_t> sample_bytes;
  std::optional<bool> guard;
  std::optional<EndpointState> endpoint;
};

// A process's page, open for reading and writing.
class ControlFile {
 public:
  explicit ControlFile(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC)) {
    // One request at a time.
    if (fd_ >= 0) flock(fd_, LOCK_EX);
  }
  ~ControlFile() {
    if (fd_ >= 0) close(fd_);
  }
  ControlFile(const ControlFile&) = delete;
  ControlFile& operator=(const ControlFile&) = delete;

  int fd() const { return fd_; }

  uint64_t read(size_t offset) const {
    uint64_t value = 0;
    return pread(fd_, &value, sizeof value, position(offset)) == ssize_t{sizeof value} ? value : 0;
  }
  bool write(size_t offset, uint64_t value) const {
    return pwrite(fd_, &value, sizeof value, position(offset)) == ssize_t{sizeof value};
  }

 private:
  static off_t position(size_t offset) { return static_cast<off_t>(telemetry::kControlOffset + offset); }
  int fd_;
};

bool read_value(const std::string& argument, Request* request) {
  size_t equals = argument.find('=');
  if (equals == std::string::npos) return false;
  std::string name = argument.substr(0, equals);
  std::string value = argument.substr(equals + 1);
  if (value == "on" || value == "off") {
    if (name == "guard") request->guard = value == "on";
    if (name == "endpoint") request->endpoint = value == "on" ? EndpointState::On : EndpointState::Off;
    return name == "guard" || name == "endpoint";
  }
  uint64_t number = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (name != "sample_bytes" || value.empty() || error != std::errc{} || end != value.data() + value.size())
    return false;
  request->sample_bytes = number;
  return true;
}

// Writes a request and waits for its answer; what went wrong, or "".
std::string ask(const ControlFile& file, const Request& request) {
  uint64_t number = file.read(offsetof(Control, request)) + 1;
  uint64_t sample_bytes = request.sample_bytes.value_or(file.read(offsetof(Control, sample_bytes)));
  uint64_t guard = request.guard ? uint64_t{*request.guard} : file.read(offsetof(Control, guard));
  auto endpoint = request.endpoint.value_or(static_cast<EndpointState>(file.read(offsetof(Control, endpoint))));
  if (!file.write(offsetof(Control, wanted_sample_bytes), sample_bytes) ||
      !file.write(offsetof(Control, wanted_guard), guard) ||
      !file.write(offsetof(Control, wanted_endpoint), static_cast<uint64_t>(endpoint)) ||
      !file.write(offsetof(Control, request), number))
    return "its stats page cannot be written to";
  auto end = std::chrono::steady_clock::now() + kPatience;
  while (file.read(offsetof(Control, answered)) != number) {
    if (std::chrono::steady_clock::now() > end)
      return "it has not answered yet: an idle process without an endpoint does so when it next takes memory";
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return "";
}

void print_values(const ControlFile& file) {
  printf("sample_bytes=%llu\n", static_cast<unsigned long long>(file.read(offsetof(Control, sample_bytes))));
  printf("guard=%s\n", file.read(offsetof(Control, guard)) != 0 ? "on" : "off");
  switch (static_cast<EndpointState>(file.read(offsetof(Control, endpoint)))) {
    case EndpointState::On: printf("endpoint=on\n"); break;
    case EndpointState::Off: printf("endpoint=off\n"); break;
    default: printf("endpoint=none\n"); break;
  }
}

}  // namespace

int config(const Arguments& arguments) {
  uint32_t pid = 0;
  if (arguments.empty() ||
      std::from_chars(arguments[0].data(), arguments[0].data() + arguments[0].size(), pid).ec != std::errc{})
    return wrong_use(kUsage);
  Request request;
  for (size_t i = 1; i < arguments.size(); ++i)
    if (!read_value(arguments[i], &request)) return wrong_use(arguments[i] + " is not understood; " + kUsage);

  std::string process = "process " + arguments[0];
  std::string path = exporter::find_page(pages_directory(), pid);
  if (path.empty()) return wrong_use(process + " has no stats page in " + pages_directory());
  ControlFile file(path);
  if (file.fd() < 0) return wrong_use(path + " cannot be opened for writing: it is of another user");
  telemetry::Snapshot snapshot;
  if (!telemetry::read_snapshot(file.fd(), &snapshot).good())
    return wrong_use(path + " is not a stats page that this version reads");
  if (file.read(offsetof(Control, enabled)) == 0)
    return wrong_use(process + " was not started with HAKMEM_CONTROL=1: nothing can be changed in it");
  bool has_endpoint = file.read(offsetof(Control, endpoint)) != static_cast<uint64_t>(EndpointState::None);
  if (request.endpoint && !has_endpoint)
    return wrong_use(process +
                     " has no endpoint of its own: it was not started with HAKMEM_LISTEN, or could not have it");
  if (arguments.size() > 1) {
    if (std::string wrong = ask(file, request); !wrong.empty()) {
      fprintf(stderr, "hakmem: %s: %s\n", process.c_str(), wrong.c_str());
      return 1;
    }
  }
  print_values(file);
  return 0;
}

}  // namespace hakmem::cli
