#include "exporter/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace hakmem::exporter {
namespace {

constexpr size_t kMaxConnections = 16;
constexpr size_t kMaxRequestBytes = 8192;
constexpr auto kRequestTime = std::chrono::seconds(1);
constexpr auto kAnswerTime = std::chrono::seconds(5);
constexpr auto kDrainTime = std::chrono::seconds(1);
constexpr auto kTick = std::chrono::milliseconds(500);

const char* reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
  }
}

Response plain(int status) { return {status, "text/plain; charset=utf-8", std::string(reason(status)) + "\n"}; }

std::string header_of(const Response& response) {
  return "HTTP/1.1 " + std::to_string(response.status) + " " + reason(response.status) +
         "\r\nContent-Type: " + response.content_type + "\r\nContent-Length: " + std::to_string(response.body.size()) +
         "\r\nConnection: close\r\n\r\n";
}

// Above the descriptors that programs count on getting, below the usual limit of 1,024.
int high_descriptor() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  auto soft = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1024));
  return soft > 128 ? soft - 64 : soft / 2;
}

ino_t inode_of(int fd) {
  struct stat status {};
  return fd >= 0 && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

}  // namespace

bool OwnSocket::is_ours() const { return inode != 0 && inode_of(fd) == inode; }

OwnSocket HttpServer::move_up(int fd) {
  int high = fcntl(fd, F_DUPFD_CLOEXEC, high_descriptor());
  if (high >= 0) {
    close(fd);
    fd = high;
  }
  callbacks_.opened(fd);
  return {fd, inode_of(fd)};
}

int HttpServer::listen(uint32_t address, uint16_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(address);
  name.sin_port = htons(port);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 || ::listen(fd, 16) != 0) {
    int error = errno;
    close(fd);
    return error;
  }
  listener_ = move_up(fd);
  return 0;
}

bool HttpServer::run() {
  std::vector<pollfd> polled;
  while (callbacks_.may_run()) {
    Clock::time_point now = Clock::now();
    bool accepting = now >= accept_again_;
    polled.assign(1, {accepting ? listener_.fd : -1, POLLIN, 0});
    for (const Connection& connection : connections_) {
      short events = connection.phase == Phase::Writing ? POLLOUT : POLLIN;
      polled.push_back({connection.socket.fd, events, 0});
    }
    int ready = poll(polled.data(), polled.size(), static_cast<int>(kTick / std::chrono::milliseconds(1)));
    if (!callbacks_.may_run()) return true;
    // Before anything is read from a descriptor: is it still our socket?
    if (!listener_.is_ours()) return false;
    if (ready < 0 && errno != EINTR) return false;
    now = Clock::now();
    for (size_t i = 0; i < connections_.size(); ++i) {
      Connection& connection = connections_[i];
      bool keep = connection.socket.is_ours() && now < connection.deadline;
      if (keep && ready > 0 && polled[i + 1].revents != 0) keep = serve(connection);
      if (!keep) drop(connection);
    }
    std::erase_if(connections_, [](const Connection& connection) { return connection.socket.fd < 0; });
    if (ready > 0 && polled[0].revents != 0) accept_all();
  }
  return true;
}

void HttpServer::accept_all() {
  for (;;) {
    int fd = accept4(listener_.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      // Out of descriptors the listener stays ready: do not turn in circles.
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) accept_again_ = Clock::now() + kTick;
      return;
    }
    if (connections_.size() == kMaxConnections) {
      // Whoever has waited longest gives way, so that idle clients never keep a scrape out.
      auto oldest = std::min_element(connections_.begin(), connections_.end(),
                                     [](const Connection& a, const Connection& b) { return a.deadline < b.deadline; });
      drop(*oldest);
      connections_.erase(oldest);
    }
    Connection& connection = connections_.emplace_back();
    connection.socket = move_up(fd);
    connection.deadline = Clock::now() + kRequestTime;
  }
}

bool HttpServer::serve(Connection& connection) {
  switch (connection.phase) {
    case Phase::Reading: return read_from(connection);
    case Phase::Writing: return write_to(connection);
    case Phase::Draining: return drain(connection);
  }
  return false;
}

bool HttpServer::read_from(Connection& connection) {
  char buffer[2048];
  ssize_t length = recv(connection.socket.fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (length < 0) return errno == EAGAIN || errno == EINTR;
  if (length == 0) return false;
  connection.input.append(buffer, static_cast<size_t>(length));
  if (!is_complete(connection.input)) return true;
  connection.output = reply_to(connection.input, callbacks_.answer);
  connection.phase = Phase::Writing;
  connection.deadline = Clock::now() + kAnswerTime;
  return write_to(connection);
}

bool HttpServer::write_to(Connection& connection) {
  while (connection.sent < connection.output.size()) {
    ssize_t length = send(connection.socket.fd, connection.output.data() + connection.sent,
                          connection.output.size() - connection.sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (length < 0) return errno == EAGAIN || errno == EINTR;
    connection.sent += static_cast<size_t>(length);
  }
  // Closing while bytes of the client are unread would reset the connection.
  shutdown(connection.socket.fd, SHUT_WR);
  connection.phase = Phase::Draining;
  connection.deadline = Clock::now() + kDrainTime;
  std::string().swap(connection.output);
  return true;
}

bool HttpServer::drain(Connection& connection) {
  char buffer[2048];
  ssize_t length = recv(connection.socket.fd, buffer, sizeof buffer, MSG_DONTWAIT);
  return length > 0 || (length < 0 && (errno == EAGAIN || errno == EINTR));
}

void HttpServer::drop(Connection& connection) {
  callbacks_.closed(connection.socket.fd);
  if (connection.socket.is_ours()) close(connection.socket.fd);
  connection.socket.fd = -1;
}

bool is_complete(std::string_view input) {
  return input.find("\r\n\r\n") != std::string_view::npos || input.find("\n\n") != std::string_view::npos ||
         input.size() >= kMaxRequestBytes;
}

std::string reply_to(std::string_view input, const std::function<Response(const Request&)>& answer) {
  std::string_view line = input.substr(0, input.find_first_of("\r\n"));
  size_t method_end = line.find(' ');
  size_t target_end = line.rfind(' ');
  Response response = plain(400);
  bool head = false;
  if (input.size() >= kMaxRequestBytes) {
    response = plain(431);
  } else if (method_end != std::string_view::npos && target_end > method_end &&
             line.substr(target_end + 1).starts_with("HTTP/1.")) {
    std::string_view method = line.substr(0, method_end);
    std::string_view target = line.substr(method_end + 1, target_end - method_end - 1);
    size_t mark = std::min(target.find('?'), target.size());
    head = method == "HEAD";
    if (method != "GET" && !head) {
      response = plain(405);
    } else if (target.starts_with("/")) {
      response = answer({target.substr(0, mark), target.substr(std::min(mark + 1, target.size()))});
    }
  }
  std::string reply = header_of(response);
  if (!head) reply += response.body;
  return reply;
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
