// A small HTTP server for one thread inside a foreign process.
//
// Not civetweb, which prometheus-cpp's own exposer uses: it ignores SIGPIPE for
// the whole process, has threads of its own, spins when the host closes its
// descriptors, and accepts from whatever socket of the host's then gets the
// same number. Here nothing is process-wide: sends raise no signal, descriptors
// are high, close on exec, and checked by inode before each use.
//
// Clients that idle, drip or do not read must not keep a scrape out: a request has
// a second, an answer five; with all places taken the client that has stood still
// for longest gives way; and requests that wait together for the same are given
// the same answer, which is made once. Where memory has run out, the client is sent away.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/http_request.h"

namespace hakmem::exporter {

struct Response {
  int status = 200;
  const char* content_type = "text/plain; charset=utf-8";
  std::string body{};
  const char* challenge = nullptr;  // for WWW-Authenticate
  // An answer that is to be had later: the client waits for `delay`, nobody else
  // does, then the answer is what `then` returns (which has no `then`).
  std::chrono::milliseconds delay{0};
  std::function<Response()> then = nullptr;
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
    size_t max_connections = 16;
  };

  explicit HttpServer(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  // Closes nothing: while a process ends, or after a fork, the descriptors may be others' already.
  ~HttpServer() = default;

  // Binds and listens; 0 or an error number. Throws std::bad_alloc before there is a socket, if at all.
  // `address` in host byte order.
  int listen(uint32_t address, uint16_t port);

  // Closes the listening socket and every connection, as far as they are ours.
  void close_all();

  // Answers until may_run() says no (true), or until the host has closed the
  // listening socket (false).
  bool run();

 private:
  using Clock = std::chrono::steady_clock;
  // Asking: the request is there, and is answered together with those that came with it.
  enum class Phase : uint8_t { Reading, Asking, Waiting, Writing, Draining };

  struct Connection {
    OwnSocket socket;
    Phase phase = Phase::Reading;
    std::string input;
    bool is_head = false;
    std::function<Response()> then;  // while Waiting
    std::string output;
    size_t sent = 0;
    Clock::time_point deadline;
    Clock::time_point progress;  // when it was accepted, or last took bytes of its answer
  };

  using Answers = std::map<std::string, Response>;  // by what was asked for, and by whom

  OwnSocket move_up(int fd);
  Clock::duration time_to_wait(Clock::time_point now) const;
  void accept_all();
  // What is to be done for a connection now; false when it is to be closed.
  bool advance(Connection& connection, bool is_ready);
  // Each returns false when the connection is to be closed.
  bool read_from(Connection& connection);
  bool write_to(Connection& connection);
  bool drain(Connection& connection);
  bool serve(Connection& connection);
  void answer_all();
  void answer(Connection& connection, Answers* made);
  void begin_answer(Connection& connection, const Response& response);
  void drop(Connection& connection);

  Callbacks callbacks_;
  OwnSocket listener_;
  Clock::time_point accept_again_{};  // after descriptors ran out
  std::vector<Connection> connections_;
  std::vector<pollfd> polled_;
};

}  // namespace hakmem::exporter
