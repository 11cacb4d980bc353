// Pages of ended processes: which are removed, and when.
#include "telemetry/page_sweep.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <vector>

#include "telemetry/stats_page.h"
#include "telemetry/system.h"
#include "tests/telemetry/in_child.h"

namespace hakmem::telemetry {
namespace {

constexpr uint64_t kNamespace = 4026531836;

class Sweep : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // A pid that was used and is free again.
    dead_ = fork();
    if (dead_ == 0) _exit(0);
    waitpid(dead_, nullptr, 0);
  }
  void TearDown() override { close(directory_); }

  std::string put(uint64_t pid_namespace, pid_t pid, uint64_t start, size_t bytes = page_bytes(1)) const {
    std::string path = folder_.path() + "/" + kPagePrefix + std::to_string(pid_namespace) + "." + std::to_string(pid) +
                       "." + std::to_string(start);
    int fd = open(path.c_str(), O_CREAT | O_RDWR, 0600);
    if (bytes != 0) {
      EXPECT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(bytes)), 0);
    }
    close(fd);
    return path;
  }

  TemporaryFolder folder_;
  int directory_ = -1;
  pid_t dead_ = 0;
};

TEST_F(Sweep, RemovesPagesOfEndedProcessesAlone) {
  std::string dead = put(kNamespace, dead_, 1);
  std::string living = put(kNamespace, getpid(), 1);
  std::string foreign = put(kNamespace + 1, dead_, 1);
  std::string other = folder_.path() + "/hakmem.database";
  close(open(other.c_str(), O_CREAT | O_RDWR, 0600));
  sweep_pages(directory_, kNamespace, 0);
  EXPECT_NE(access(dead.c_str(), F_OK), 0);
  EXPECT_EQ(access(living.c_str(), F_OK), 0);
  EXPECT_EQ(access(foreign.c_str(), F_OK), 0) << "its pids mean nothing here";
  EXPECT_EQ(access(other.c_str(), F_OK), 0);
}

TEST_F(Sweep, KeepsAPageForSomeTimeAfterItsProcessEnded) {
  std::string dead = put(kNamespace, dead_, 1);
  sweep_as_needed(directory_, kNamespace);
  EXPECT_EQ(access(dead.c_str(), F_OK), 0) << "it may be wanted to see what happened";
}

TEST_F(Sweep, KeepsNoneWhereThereAreVeryMany) {
  for (uint64_t start = 0; start < 520; ++start) put(kNamespace, dead_, start, 0);
  EXPECT_EQ(pages_held(directory_).count, 520u);
  sweep_as_needed(directory_, kNamespace);
  EXPECT_EQ(pages_held(directory_).count, 0u);
}

TEST_F(Sweep, CountsTheBlocksOfPages) {
  put(kNamespace, getpid(), 1);
  put(kNamespace, getpid(), 2, page_bytes(4));
  PagesHeld held = pages_held(directory_);
  EXPECT_EQ(held.count, 2u);
  EXPECT_EQ(held.bytes, page_bytes(1) + page_bytes(4));
}

}  // namespace
}  // namespace hakmem::telemetry
