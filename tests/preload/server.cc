// A threaded HTTP/1.1 server in the usual C++ manner, the program under test of
// server_test.py. It knows nothing of hakmem.
//
//   server thread|pool
//
// It prints the port it listens on, serves until SIGTERM, and prints how many
// requests it answered. POST /reverse answers with the body reversed, PUT /KEY
// stores the body, GET /KEY answers with it, DELETE /KEY forgets it. POST /fork
// starts a child that copies what is stored, as if to save it, and ends some seconds
// later. "thread" starts a thread a connection; "pool" hands connections to eight threads.
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Request {
  std::string method;
  std::string path;
  std::map<std::string, std::string> headers;
  std::string body;
};

struct Response {
  int status;
  std::string body;
};

// Bodies are shared: a reader may hold one that a writer has just replaced.
class Store {
 public:
  void put(const std::string& key, std::string value) {
    auto shared = std::make_shared<const std::string>(std::move(value));
    std::lock_guard lock(mutex_);
    values_[key] = std::move(shared);
  }
  std::shared_ptr<const std::string> get(const std::string& key) {
    std::lock_guard lock(mutex_);
    auto found = values_.find(key);
    return found == values_.end() ? nullptr : found->second;
  }
  bool remove(const std::string& key) {
    std::lock_guard lock(mutex_);
    return values_.erase(key) != 0;
  }
  // In a child that was forked: takes three seconds to copy what there was then.
  [[noreturn]] void save() {
    std::vector<std::string> copies;
    for (int step = 0; step < 30; ++step) {
      size_t count = 0;
      for (const auto& [key, value] : values_)
        if (count++ % 30 == static_cast<size_t>(step)) copies.push_back(key + *value);
      if (step == 20) copies.clear();
      usleep(100'000);
    }
    _exit(0);
  }
  pid_t fork() {
    std::lock_guard lock(mutex_);  // the child finds the values whole
    pid_t child = ::fork();
    if (child == 0) save();
    return child;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const std::string>> values_;
};

Store store;
std::atomic<size_t> answered{0};
std::atomic<bool> stopping{false};
std::mutex connections_mutex;
std::condition_variable connections_changed;
std::deque<int> waiting_connections;
size_t open_connections = 0;

Response answer(const Request& request) {
  if (request.method == "POST" && request.path == "/reverse")
    return {200, std::string(request.body.rbegin(), request.body.rend())};
  if (request.method == "POST" && request.path == "/fork") return {store.fork() > 0 ? 200 : 500, ""};
  if (request.method == "PUT") {
    store.put(request.path, request.body);
    return {201, ""};
  }
  if (request.method == "GET") {
    auto value = store.get(request.path);
    return value ? Response{200, *value} : Response{404, "nothing at " + request.path};
  }
  if (request.method == "DELETE") return {store.remove(request.path) ? 204 : 404, ""};
  return {405, "no such method"};
}

// Reads requests from one connection, whatever way they are cut into packets.
class Reader {
 public:
  explicit Reader(int socket) : socket_(socket) {}

  std::optional<Request> next() {
    size_t end;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos)
      if (!read_more()) return std::nullopt;
    Request request = parse(buffer_.substr(0, end));
    buffer_.erase(0, end + 4);
    auto length = request.headers.find("content-length");
    size_t body_bytes = length == request.headers.end() ? 0 : std::stoul(length->second);
    while (buffer_.size() < body_bytes)
      if (!read_more()) return std::nullopt;
    request.body = buffer_.substr(0, body_bytes);
    buffer_.erase(0, body_bytes);
    return request;
  }

 private:
  bool read_more() {
    std::vector<char> chunk(16384);
    ssize_t got = read(socket_, chunk.data(), chunk.size());
    if (got <= 0) return false;
    buffer_.append(chunk.data(), static_cast<size_t>(got));
    return true;
  }

  static Request parse(const std::string& head) {
    Request request;
    size_t line_end = head.find("\r\n");
    std::string first = head.substr(0, line_end);
    size_t space = first.find(' ');
    request.method = first.substr(0, space);
    request.path = first.substr(space + 1, first.find(' ', space + 1) - space - 1);
    while (line_end != std::string::npos) {
      size_t start = line_end + 2;
      line_end = head.find("\r\n", start);
      std::string line = head.substr(start, line_end == std::string::npos ? line_end : line_end - start);
      size_t colon = line.find(": ");
      if (colon == std::string::npos) continue;
      std::string name = line.substr(0, colon);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      request.headers[name] = line.substr(colon + 2);
    }
    return request;
  }

  int socket_;
  std::string buffer_;
};

bool write_all(int socket, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    ssize_t written = send(socket, text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (written <= 0) return false;
    at += static_cast<size_t>(written);
  }
  return true;
}

void serve(int socket) {
  Reader reader(socket);
  while (auto request = reader.next()) {
    Response response = answer(*request);
    ++answered;
    std::string text = "HTTP/1.1 " + std::to_string(response.status) +
                       " Answer\r\nContent-Length: " + std::to_string(response.body.size()) + "\r\n\r\n" +
                       response.body;
    if (!write_all(socket, text)) break;
  }
  close(socket);
  std::lock_guard lock(connections_mutex);
  --open_connections;
  connections_changed.notify_all();
}

void serve_from_queue() {
  for (;;) {
    std::unique_lock lock(connections_mutex);
    connections_changed.wait(lock, [] { return stopping || !waiting_connections.empty(); });
    if (waiting_connections.empty()) return;
    int socket = waiting_connections.front();
    waiting_connections.pop_front();
    lock.unlock();
    serve(socket);
  }
}

int listen_on_loopback() {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(listener, 128) != 0 || getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    std::perror("listen");
    std::exit(1);
  }
  std::printf("%d\n", ntohs(address.sin_port));
  std::fflush(stdout);
  return listener;
}

}  // namespace

int main(int argc, char** argv) {
  bool pooled = argc > 1 && std::strcmp(argv[1], "pool") == 0;
  struct sigaction action {};
  action.sa_handler = [](int) { stopping = true; };
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGCHLD, SIG_IGN);  // nobody waits for the children
  int listener = listen_on_loopback();
  std::vector<std::thread> pool;
  for (int i = 0; pooled && i < 8; ++i) pool.emplace_back(serve_from_queue);
  while (!stopping) {
    pollfd poll_listener{listener, POLLIN, 0};
    if (poll(&poll_listener, 1, 100) <= 0) continue;
    int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) continue;
    std::lock_guard lock(connections_mutex);
    ++open_connections;
    if (pooled) {
      waiting_connections.push_back(socket);
      connections_changed.notify_one();
    } else {
      std::thread(serve, socket).detach();
    }
  }
  {
    std::unique_lock lock(connections_mutex);
    connections_changed.wait(lock, [] { return open_connections == 0; });
    connections_changed.notify_all();
  }
  for (std::thread& thread : pool) thread.join();
  std::printf("answered %zu\n", answered.load());
}
