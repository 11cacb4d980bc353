// The page writer is one per process, and the environment is read once: a test
// of either runs in a child of its own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include "allocator/base/environment.h"

namespace hakmem::telemetry {

using Environment = std::map<std::string, std::string>;

struct ChildResult {
  int status;              // of wait(2); 0 when no expectation of `body` failed
  std::string error_text;  // what it wrote to stderr
};

// Runs `body` in a forked child with these variables set and hakmem's read.
template <class Body>
ChildResult in_child(const Environment& environment, Body body) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    check_environment();
    body();
    fflush(stdout);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  close(ends[1]);
  ChildResult result{};
  char buffer[512];
  for (ssize_t length; (length = read(ends[0], buffer, sizeof buffer)) > 0;)
    result.error_text.append(buffer, static_cast<size_t>(length));
  close(ends[0]);
  waitpid(child, &result.status, 0);
  return result;
}

// A folder that is gone when the test is over.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    char path[] = "/dev/shm/hakmem_test_XXXXXX";
    if (mkdtemp(path) == nullptr) abort();
    path_ = path;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  // The only file in it; "" when there is none.
  std::string only_file() const {
    std::filesystem::directory_iterator entry(path_);
    return entry == std::filesystem::directory_iterator() ? "" : entry->path().string();
  }

 private:
  std::string path_;
};

}  // namespace hakmem::telemetry
