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
#include <new>
#include <utility>

namespace hakmem::exporter {
namespace {

// Connections that wait to be accepted; a burst beyond it is tried again by its clients after a second.
constexpr int kBacklog = 512;
constexpr auto kRequestTime = std::chrono::seconds(1);
constexpr auto kAnswerTime = std::chrono::seconds(5);
constexpr auto kDrainTime = std::chrono::seconds(1);
constexpr auto kTick = std::chrono::milliseconds(500);

const char* reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 421: return "Misdirected Request";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
  }
}

Response refusal(int status) { return {.status = status, .body = std::string(reason(status)) + "\n"}; }

// What is served is read by programs and shown as text: a browser may neither
// guess another type, frame it, run anything of it, nor keep it.
constexpr const char* kSecurityHeaders =
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    "Cache-Control: no-store\r\n";

std::string header_of(const Response& response) {
  std::string header = "HTTP/1.1 " + std::to_string(response.status) + " " + reason(response.status) +
                       "\r\nContent-Type: " + response.content_type +
                       "\r\nContent-Length: " + std::to_string(response.body.size()) + "\r\n" + kSecurityHeaders;
  if (response.status == 405) header += "Allow: GET, HEAD\r\n";
  if (response.challenge != nullptr) header.append("WWW-Authenticate: ").append(response.challenge).append("\r\n");
  return header + "Connection: close\r\n\r\n";
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
  // So that no connection is refused, and none lost, for want of memory; and before there is a
  // socket, on which nobody would answer if there is not even that.
  connections_.reserve(callbacks_.max_connections);
  polled_.reserve(callbacks_.max_connections + 1);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(address);
  name.sin_port = htons(port);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 || ::listen(fd, kBacklog) != 0) {
    int error = errno;
    close(fd);
    return error;
  }
  listener_ = move_up(fd);
  return 0;
}

bool HttpServer::run() {
  while (callbacks_.may_run()) {
    Clock::time_point now = Clock::now();
    bool accepting = now >= accept_again_;
    polled_.assign(1, {accepting ? listener_.fd : -1, POLLIN, 0});
    for (const Connection& connection : connections_) {
      short events = connection.phase == Phase::Writing ? POLLOUT : POLLIN;
      polled_.push_back({connection.socket.fd, events, 0});
    }
    int ready =
        poll(polled_.data(), polled_.size(), static_cast<int>(time_to_wait(now) / std::chrono::milliseconds(1)));
    if (!callbacks_.may_run()) return true;
    // Before anything is read from a descriptor: is it still our socket?
    if (!listener_.is_ours()) return false;
    if (ready < 0 && errno != EINTR) return false;
    for (size_t i = 0; i < connections_.size(); ++i)
      if (!advance(connections_[i], ready > 0 && polled_[i + 1].revents != 0)) drop(connections_[i]);
    std::erase_if(connections_, [](const Connection& connection) { return connection.socket.fd < 0; });
    if (ready > 0 && polled_[0].revents != 0) accept_all();
    answer_all();
  }
  return true;
}

void HttpServer::accept_all() {
  // Half of the places at most, so that those who read their answers get on in between.
  for (size_t accepted = 0; accepted < std::max<size_t>(callbacks_.max_connections / 2, 1); ++accepted) {
    int fd = accept4(listener_.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      // Out of descriptors the listener stays ready: do not turn in circles.
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) accept_again_ = Clock::now() + kTick;
      return;
    }
    if (connections_.size() >= callbacks_.max_connections) {
      auto stillest =
          std::min_element(connections_.begin(), connections_.end(),
                           [](const Connection& a, const Connection& b) { return a.progress < b.progress; });
      drop(*stillest);
      connections_.erase(stillest);
    }
    Connection& connection = connections_.emplace_back();
    connection.socket = move_up(fd);
    connection.progress = Clock::now();
    connection.deadline = connection.progress + kRequestTime;
    // The request is mostly there already: then it no longer depends on who comes next.
    if (!read_from(connection)) {
      drop(connection);
      connections_.pop_back();
    }
  }
}

bool HttpServer::advance(Connection& connection, bool is_ready) {
  if (!connection.socket.is_ours()) return false;
  if (Clock::now() < connection.deadline) return !is_ready || serve(connection);
  if (connection.phase != Phase::Waiting) return false;
  connection.phase = Phase::Asking;
  return true;
}

bool HttpServer::serve(Connection& connection) {
  switch (connection.phase) {
    case Phase::Reading: return read_from(connection);
    case Phase::Asking: return true;
    case Phase::Waiting: return drain(connection);
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
  try {
    connection.input.append(buffer, static_cast<size_t>(length));
  } catch (const std::bad_alloc&) {
    return false;
  }
  if (is_complete(connection.input) || connection.input.size() >= kMaxRequestBytes) connection.phase = Phase::Asking;
  return true;
}

void HttpServer::answer_all() {
  // All of these were there before the first answer is made.
  Answers made;
  for (Connection& connection : connections_) {
    if (connection.phase != Phase::Asking) continue;
    try {
      answer(connection, &made);
    } catch (const std::bad_alloc&) {
      drop(connection);  // there is not even room to say so
    }
  }
  std::erase_if(connections_, [](const Connection& connection) { return connection.socket.fd < 0; });
}

void HttpServer::answer(Connection& connection, Answers* made) {
  if (connection.then) return begin_answer(connection, std::exchange(connection.then, nullptr)());
  ParsedRequest parsed = parse_request(connection.input);
  connection.is_head = parsed.is_head;
  if (parsed.status != 200) return begin_answer(connection, refusal(parsed.status));
  const Request& request = parsed.request;
  std::string key;
  for (std::string_view part : {request.path, request.query, request.authorization, request.host})
    key.append(part).append(" ");
  auto known = made->find(key);
  if (known == made->end()) known = made->emplace(key, callbacks_.answer(request)).first;
  if (!known->second.then) return begin_answer(connection, known->second);
  connection.then = std::exchange(known->second.then, nullptr);
  connection.deadline = Clock::now() + known->second.delay;
  connection.phase = Phase::Waiting;
  made->erase(known);
}

void HttpServer::begin_answer(Connection& connection, const Response& response) {
  connection.output = header_of(response);
  if (!connection.is_head) connection.output += response.body;
  connection.phase = Phase::Writing;
  connection.deadline = Clock::now() + kAnswerTime;
  if (!write_to(connection)) drop(connection);
}

HttpServer::Clock::duration HttpServer::time_to_wait(Clock::time_point now) const {
  Clock::duration wait = kTick;
  for (const Connection& connection : connections_) wait = std::min(wait, connection.deadline - now);
  return std::max(wait + std::chrono::milliseconds(1), Clock::duration::zero());
}

bool HttpServer::write_to(Connection& connection) {
  while (connection.sent < connection.output.size()) {
    ssize_t length = send(connection.socket.fd, connection.output.data() + connection.sent,
                          connection.output.size() - connection.sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (length < 0) return errno == EAGAIN || errno == EINTR;
    connection.sent += static_cast<size_t>(length);
    connection.progress = Clock::now();
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

void HttpServer::close_all() {
  for (Connection& connection : connections_) drop(connection);
  connections_.clear();
  callbacks_.closed(listener_.fd);
  if (listener_.is_ours()) close(listener_.fd);
  listener_ = {};
}

}  // namespace hakmem::exporter
