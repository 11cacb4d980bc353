// The HTTP server, its requests, its routes and who may ask, over real sockets and files.
#include "exporter/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "exporter/access.h"
#include "exporter/routes.h"

namespace hakmem::exporter {
namespace {

using namespace std::chrono_literals;

int status_of(const std::string& request) { return parse_request(request).status; }

TEST(HttpRequest, ReadsPathQueryAndAuthorization) {
  ParsedRequest parsed = parse_request(
      "GET /a/b?seconds=3&x= HTTP/1.1\r\nHost: x\r\nauthorizatioN:  Bearer abc \r\nX: y\r\n\r\nbody: 1\r\n");
  EXPECT_EQ(parsed.status, 200);
  EXPECT_EQ(parsed.request.path, "/a/b");
  EXPECT_EQ(query_value(parsed.request.query, "seconds"), "3");
  EXPECT_EQ(parsed.request.authorization, "Bearer abc");
  EXPECT_FALSE(parsed.is_head);
  EXPECT_TRUE(parse_request("HEAD / HTTP/1.0\n\n").is_head);
  EXPECT_EQ(parse_request("GET / HTTP/1.1\r\n\r\nAuthorization: x\r\n\r\n").request.authorization, "");
}

TEST(HttpRequest, RefusesWhatItIsNotMeantFor) {
  for (const char* method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"})
    EXPECT_EQ(status_of(std::string(method) + " /metrics HTTP/1.1\r\n\r\n"), 405) << method;
  for (const char* bad : {"", "\r\n\r\n", "GET", "GET /", "GET / HTTP/2", "GET metrics HTTP/1.1\r\n\r\n", " / HTTP/3"})
    EXPECT_EQ(status_of(bad), 400) << bad;
  std::string headers = "GET / HTTP/1.1\r\n";
  for (size_t i = 0; i < kMaxHeaders; ++i) headers += "a: b\r\n";
  EXPECT_EQ(status_of(headers + "\r\n"), 200);
  EXPECT_EQ(status_of(headers + "a: b\r\n\r\n"), 431);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\na: " + std::string(kMaxRequestBytes, 'b') + "\r\n\r\n"), 431);
}

// A file of this content that is gone when the test is over.
class SecretFile {
 public:
  explicit SecretFile(const std::string& content, mode_t mode = 0600) {
    int fd = mkstemp(path_);
    EXPECT_EQ(write(fd, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    EXPECT_EQ(fchmod(fd, mode), 0);
    close(fd);
  }
  ~SecretFile() { unlink(path_); }
  SecretFile(const SecretFile&) = delete;
  SecretFile& operator=(const SecretFile&) = delete;
  const char* path() const { return path_; }

 private:
  char path_[32] = "/tmp/hakmem_secret_XXXXXX";
};

TEST(Access, AdmitsEverybodyWithoutASecret) { EXPECT_TRUE(Access().admits("")); }

TEST(Access, ABearerToken) {
  SecretFile file("a-long-token\n");
  Access access;
  ASSERT_EQ(access.read_secret(file.path()), "");
  EXPECT_STREQ(access.challenge(), "Bearer realm=\"hakmem\"");
  EXPECT_TRUE(access.admits("Bearer a-long-token"));
  EXPECT_TRUE(access.admits("bearer a-long-token"));
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer a-long-toke", "Bearer a-long-tokenn",
                            "Bearer a-long-tokeN", "Basic a-long-token", "a-long-token", "Bearer  a-long-token"})
    EXPECT_FALSE(access.admits(wrong)) << wrong;
}

TEST(Access, UserAndPassword) {
  Access access;
  for (const auto& [secret, header] :
       {std::pair{"prometheus:s3cret", "Basic cHJvbWV0aGV1czpzM2NyZXQ="},
        std::pair{"user:pass1", "Basic dXNlcjpwYXNzMQ=="}, std::pair{"user:pass12", "Basic dXNlcjpwYXNzMTI="},
        std::pair{"user:pass123", "Basic dXNlcjpwYXNzMTIz"}}) {
    SecretFile file(secret);
    ASSERT_EQ(access.read_secret(file.path()), "");
    EXPECT_STREQ(access.challenge(), "Basic realm=\"hakmem\"");
    EXPECT_TRUE(access.admits(header)) << secret;
    EXPECT_FALSE(access.admits(std::string(header) + "=")) << secret;
    EXPECT_FALSE(access.admits(std::string("Bearer ") + secret)) << secret;
  }
}

TEST(Access, TakesNoFileThatOthersMayReadOrThatHoldsNoSecret) {
  Access access;
  for (mode_t mode : {0604u, 0602u, 0620u, 0644u, 0666u})
    EXPECT_NE(access.read_secret(SecretFile("a-long-token", mode).path()), "") << mode;
  for (mode_t mode : {0400u, 0600u, 0440u})
    EXPECT_EQ(Access().read_secret(SecretFile("a-long-token", mode).path()), "") << mode;
  for (const std::string& content :
       {std::string(), std::string("\n"), std::string("short"), std::string("two\nlines123"),
        std::string("a token with spaces"), std::string(257, 'x')})
    EXPECT_NE(access.read_secret(SecretFile(content).path()), "") << content;
  EXPECT_NE(access.read_secret("/nonexistent"), "");
  EXPECT_NE(access.read_secret("/tmp"), "");
  EXPECT_TRUE(access.is_open());
  if (geteuid() == 0) {
    SecretFile file("a-long-token");
    ASSERT_EQ(chown(file.path(), 65534, 65534), 0);
    EXPECT_EQ(access.read_secret(file.path()), "it belongs to another user");
  }
}

Routes some_routes(Access access = {}, uint32_t address = INADDR_LOOPBACK) {
  return {std::move(access),
          {{"/metrics", [](const Request&) { return Response{.body = "figures"}; }},
           {"/fails", [](const Request&) -> Response { throw std::runtime_error("no memory"); }},
           {"/busy", [](const Request&) -> Response { throw Unavailable("just now"); }},
           {"/later", [](const Request&) { return Response{.then = []() -> Response { throw Unavailable("yet"); }}; }}},
          address};
}

TEST(Routes, AnswersPathsOfTheTableAlone) {
  Routes routes = some_routes();
  EXPECT_EQ(routes.answer({"/metrics", "", ""}).body, "figures");
  EXPECT_EQ(routes.answer({"/healthz", "", ""}).body, "ok\n");
  EXPECT_EQ(routes.answer({"/fails", "", ""}).status, 500);
  EXPECT_EQ(routes.answer({"/metrics/", "", ""}).status, 404);
  EXPECT_EQ(routes.answer({"/", "", ""}).body, "there is: /metrics /fails /busy /later /healthz\n");
}

TEST(Routes, WhatCannotBeHadJustNowIsNoFailure) {
  Routes routes = some_routes();
  for (const Response& response : {routes.answer({"/busy", "", ""}), routes.answer({"/later", "", ""}).then()})
    EXPECT_EQ(response.status, 503);
  EXPECT_EQ(routes.answer({"/busy", "", ""}).body, "just now\n");
}

TEST(Routes, WithASecretStrangersLearnNothing) {
  SecretFile file("a-long-token");
  Access access;
  ASSERT_EQ(access.read_secret(file.path()), "");
  Routes routes = some_routes(std::move(access));
  for (const char* path : {"/metrics", "/fails", "/nothing"}) {
    Response refused = routes.answer({path, "", "Bearer b-long-token"});
    EXPECT_EQ(refused.status, 401) << path;
    EXPECT_EQ(refused.body, "Unauthorized\n");
    EXPECT_STREQ(refused.challenge, "Bearer realm=\"hakmem\"");
  }
  EXPECT_EQ(routes.answer({"/healthz", "", ""}).status, 200);
  EXPECT_EQ(routes.answer({"/metrics", "", "Bearer a-long-token"}).status, 200);
}

TEST(Routes, AtALoopbackAddressNamesOfOthersReadNothing) {
  SecretFile file("a-long-token");
  Access access;
  ASSERT_EQ(access.read_secret(file.path()), "");
  for (const char* host : {"127.0.0.1:9464", "127.0.0.1", "localhost", "localhost:9464", "[::1]:9464", ""})
    EXPECT_EQ(some_routes().answer({"/metrics", "", "", host}).status, 200) << host;
  for (const char* host : {"rebound.example:9464", "127.0.0.1.example", "localhost.example:1", "0x7f000001"}) {
    EXPECT_EQ(some_routes().answer({"/metrics", "", "", host}).status, 421) << host;
    EXPECT_EQ(some_routes().answer({"/nothing", "", "", host}).status, 421) << host;
    EXPECT_EQ(some_routes().answer({"/healthz", "", "", host}).status, 200) << host;
    // Others' machines know this one by name, and a page of the web does not know the password.
    EXPECT_EQ(some_routes({}, 0).answer({"/metrics", "", "", host}).status, 200) << host;
    EXPECT_EQ(some_routes(access).answer({"/metrics", "", "Bearer a-long-token", host}).status, 200) << host;
  }
}

TEST(Routes, OneLineForAnAddressThatOthersReach) {
  SecretFile file("a-long-token");
  Access access;
  ASSERT_EQ(access.read_secret(file.path()), "");
  testing::internal::CaptureStderr();
  some_routes().warn_if_open("127.0.0.1:1", "HAKMEM_AUTH=FILE");
  some_routes(access, 0).warn_if_open("0.0.0.0:1", "HAKMEM_AUTH=FILE");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  // In a process of its own, as the log keeps the stderr that it began with.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT((some_routes({}, 0).warn_if_open("0.0.0.0:1", "HAKMEM_AUTH=FILE"), exit(0)), testing::ExitedWithCode(0),
              "^hakmem: anybody who reaches 0.0.0.0:1 can read it: HAKMEM_AUTH=FILE asks for a password\n$");
}

// A server on a port of its own.
class Served {
 public:
  explicit Served(std::function<Response(const Request&)> answer) {
    HttpServer::Callbacks callbacks;
    callbacks.answer = std::move(answer);
    callbacks.may_run = [this] { return !stop_.load(); };
    server_ = std::make_unique<HttpServer>(std::move(callbacks));
    for (port_ = 20000 + static_cast<uint16_t>(getpid() % 20000); server_->listen(INADDR_LOOPBACK, port_) != 0;)
      ++port_;
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Served() {
    stop_.store(true);
    thread_.join();
  }
  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  // A connection that has asked for the path.
  int ask(const std::string& path) const {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons(port_);
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
    std::string request = "GET " + path + " HTTP/1.1\r\n\r\n";
    EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
    return fd;
  }

  static std::string body(int fd) {
    std::string answer;
    char buffer[4096];
    for (ssize_t length; (length = recv(fd, buffer, sizeof buffer, 0)) > 0;)
      answer.append(buffer, static_cast<size_t>(length));
    close(fd);
    size_t end = answer.find("\r\n\r\n");
    return end == std::string::npos ? "" : answer.substr(end + 4);
  }

 private:
  std::atomic<bool> stop_{false};
  uint16_t port_ = 0;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST(HttpServer, AnAnswerThatIsHadLaterHoldsUpNobody) {
  std::atomic<bool> is_later{false};
  Served served([&](const Request& request) {
    if (request.path == "/now") return Response{.body = "now"};
    return Response{.delay = 700ms, .then = [&] {
                      is_later.store(true);
                      return Response{.body = "later"};
                    }};
  });
  int slow = served.ask("/later");
  EXPECT_EQ(Served::body(served.ask("/now")), "now");
  EXPECT_FALSE(is_later.load());
  EXPECT_EQ(Served::body(slow), "later");
}

TEST(HttpServer, RequestsThatWaitTogetherGetOneAnswer) {
  std::atomic<int> made{0};
  std::atomic<bool> may_answer{false};
  Served served([&](const Request& request) {
    while (request.path == "/first" && !may_answer.load()) std::this_thread::sleep_for(1ms);
    ++made;
    return Response{.body = std::string(request.path) + std::string(request.query)};
  });
  int first = served.ask("/first");
  std::this_thread::sleep_for(100ms);  // the server is in it by now
  int clients[] = {served.ask("/x?1"), served.ask("/x?1"), served.ask("/x?2"), served.ask("/x?1")};
  may_answer.store(true);
  EXPECT_EQ(Served::body(first), "/first");
  const char* expected[] = {"/x1", "/x1", "/x2", "/x1"};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Served::body(clients[i]), expected[i]);
  EXPECT_EQ(made.load(), 3);
}

}  // namespace
}  // namespace hakmem::exporter
