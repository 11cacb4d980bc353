// A small HTTP server for one thread inside a foreign process.
//
// Not civetweb, which prometheus-cpp's own exposer uses: it ignores SIGPIPE for
// the whole process, has threads of its own, spins when the host closes its
// descriptors, and accepts from whatever socket of the host's then gets the
// same number. Here nothing is process-wide: sends raise no signal, descriptors
// are high, close on exec, and checked by inode before each use.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hakmem::exporter {

struct Request {
  std::string_view path;
  std::string_view query;  // without the question mark
};

struct Response {
  int status = 200;
  const char* content_type = "text/plain; charset=utf-8";
  std::string body;
};

// A descriptor that is a socket of ours, as long as its inode says so.
struct OwnSocket {
  int fd = -1;
  ino_t inode = 0;

  bool is_ours() const;
};

class HttpServer {
 public:
  struct Callbacks {
    std::function<Response(const Request&)> answer;
    std::function<void(int fd)> opened = [](int) {};  // descriptors a forked child must close
    std::function<void(int fd)> closed = [](int) {};
    std::function<bool()> may_run = [] { return true; };  // asked twice a second
  };

  explicit HttpServer(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  // Closes nothing: while a process ends, or after a fork, the descriptors may be others' already.
  ~HttpServer() = default;

  // Binds and listens; 0 or an error number. `address` in host byte order.
  int listen(uint32_t address, uint16_t port);

  // Answers until may_run() says no (true), or until the host has closed the
  // listening socket (false).
  bool run();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Phase : uint8_t { Reading, Writing, Draining };

  struct Connection {
    OwnSocket socket;
    Phase phase = Phase::Reading;
    std::string input;
    std::string output;
    size_t sent = 0;
    Clock::time_point deadline;
  };

  OwnSocket move_up(int fd);
  void accept_all();
  // Each returns false when the connection is to be closed.
  bool read_from(Connection& connection);
  bool write_to(Connection& connection);
  bool drain(Connection& connection);
  bool serve(Connection& connection);
  void drop(Connection& connection);

  Callbacks callbacks_;
  OwnSocket listener_;
  Clock::time_point accept_again_{};  // after descriptors ran out
  std::vector<Connection> connections_;
};

// Whether all of a request's head has come, or more than will be read.
bool is_complete(std::string_view input);

// What to send for a request whose head is complete: of good ones `answer`'s, headers included.
std::string reply_to(std::string_view input, const std::function<Response(const Request&)>& answer);

// The value of `name` in a query such as "pid=12&x=y"; empty when it is not there.
std::string_view query_value(std::string_view query, std::string_view name);

}  // namespace hakmem::exporter
