#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "allocator/base/environment.h"
#include "exporter/access.h"
#include "exporter/cli/commands.h"

namespace hakmem::cli {
namespace {

constexpr const char* kTypes[] = {"heap", "allocs", "peak", "lifetimes", "fragmentation"};
constexpr const char* kUsage =
    "usage: hakmem profile PID|HOST:PORT [--type heap|allocs|peak|lifetimes|fragmentation] [--seconds N] -o FILE";
constexpr uint32_t kMaxSeconds = 300;
constexpr uint32_t kAnswerSeconds = 30;

struct Wanted {
  std::string process;
  std::string type = "heap";
  uint32_t seconds = 0;
  std::string file;
};

template <class Number>
bool parse_number(const std::string& text, Number* number) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc{} && end == text.data() + text.size();
}

// False when the arguments make no sense.
bool parse(const Arguments& arguments, Wanted* wanted) {
  bool is_possible = true;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!argument.starts_with("-")) {
      if (!wanted->process.empty()) return false;
      wanted->process = argument;
      continue;
    }
    bool has_value = ++i < arguments.size();
    if (has_value && argument == "--type")
      wanted->type = arguments[i];
    else if (has_value && argument == "--seconds" && parse_number(arguments[i], &wanted->seconds))
      is_possible = is_possible && wanted->seconds != 0 && wanted->seconds <= kMaxSeconds;
    else if (has_value && argument == "-o")
      wanted->file = arguments[i];
    else
      return false;
  }
  bool is_known = std::find(std::begin(kTypes), std::end(kTypes), wanted->type) != std::end(kTypes);
  return is_possible && is_known && !wanted->process.empty() && !wanted->file.empty();
}

// HAKMEM_LISTEN as the process was started with it; empty when it was not.
std::string endpoint_of(uint32_t pid) {
  std::ifstream environment("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
  constexpr std::string_view kName = "HAKMEM_LISTEN=";
  for (std::string variable; std::getline(environment, variable, '\0');)
    if (variable.starts_with(kName)) return variable.substr(kName.size());
  return "";
}

// Goes to the network of a process, as its address means another process here where it has one of its own. What went
// wrong, or "". Where it may not be asked, its environment could not be read either.
std::string enter_network_of(uint32_t pid) {
  std::string its_path = "/proc/" + std::to_string(pid) + "/ns/net";
  struct stat own {};
  struct stat its {};
  if (stat("/proc/self/ns/net", &own) != 0 || stat(its_path.c_str(), &its) != 0 || own.st_ino == its.st_ino) return "";
  int fd = open(its_path.c_str(), O_RDONLY | O_CLOEXEC);
  bool has_entered = fd >= 0 && setns(fd, CLONE_NEWNET) == 0;
  int error = errno;
  if (fd >= 0) close(fd);
  return has_entered
             ? ""
             : std::string(" has a network of its own, as in a container, and cannot be asked: ") + strerror(error);
}

// What the endpoint answers, or what went wrong in `problem`.
std::optional<std::string> get(const ListenAddress& address, const std::string& target,
                               const std::string& authorization, uint32_t seconds, std::string* problem) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(address.address);
  name.sin_port = htons(address.port);
  timeval patience{static_cast<time_t>(seconds + kAnswerSeconds), 0};
  std::string request = "GET " + target + " HTTP/1.0\r\n";
  if (!authorization.empty()) request += "Authorization: " + authorization + "\r\n";
  request += "\r\n";
  std::string answer;
  bool is_sent = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
                 connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0 &&
                 send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size());
  ssize_t length = -1;
  char buffer[65536];
  while (is_sent && (length = recv(fd, buffer, sizeof buffer, 0)) > 0)
    answer.append(buffer, static_cast<size_t>(length));
  int error = errno;
  if (fd >= 0) close(fd);
  if (!is_sent || length < 0) {
    *problem = strerror(error);
    return {};
  }
  size_t head = answer.find("\r\n\r\n");
  if (head == std::string::npos || !answer.starts_with("HTTP/1.1 ")) {
    *problem = "it is not hakmem's endpoint";
    return {};
  }
  std::string body = answer.substr(head + 4);
  if (answer.compare(9, 3, "200") == 0) return body;
  *problem = body.substr(0, body.find('\n'));
  if (answer.compare(9, 3, "401") == 0)
    *problem = authorization.empty() ? "it wants a secret: name the file that holds it in HAKMEM_AUTH"
                                     : "the secret in HAKMEM_AUTH is not the one that it wants";
  return {};
}

}  // namespace

int profile(const Arguments& arguments) {
  Wanted wanted;
  if (!parse(arguments, &wanted)) return wrong_use(kUsage);
  std::string endpoint = wanted.process;
  uint32_t pid = 0;
  if (parse_number(wanted.process, &pid)) {
    endpoint = endpoint_of(pid);
    if (endpoint.empty())
      return wrong_use("process " + wanted.process +
                       " has no endpoint: start it with HAKMEM_LISTEN, or by `hakmem run --listen`");
    if (std::string wrong = enter_network_of(pid); !wrong.empty())
      return wrong_use("process " + wanted.process + wrong);
  }
  ListenAddress address;
  if (!parse_listen_address(endpoint.c_str(), &address))
    return wrong_use(endpoint + " is not an IPv4 address and a port, such as 127.0.0.1:19464");
  // Never from the command line, which everybody on the machine may read.
  exporter::Access access;
  if (const char* file = getenv("HAKMEM_AUTH"); file != nullptr && *file != '\0')
    if (std::string wrong = access.read_secret(file); !wrong.empty())
      return wrong_use(std::string("HAKMEM_AUTH=") + file + ": " + wrong);
  std::string target = "/debug/pprof/" + wanted.type;
  if (wanted.seconds != 0) target += "?seconds=" + std::to_string(wanted.seconds);
  std::string problem;
  std::optional<std::string> content = get(address, target, access.authorization(), wanted.seconds, &problem);
  if (!content) {
    wrong_use("no profile from " + endpoint + ": " + problem);
    return 1;
  }
  std::ofstream file(wanted.file, std::ios::binary);
  file << *content;
  file.close();
  if (!file) {
    wrong_use(wanted.file + " cannot be written");
    return 1;
  }
  return 0;
}

}  // namespace hakmem::cli
