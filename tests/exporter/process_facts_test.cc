// Containers and units, as the files of real machines name them.
#include "exporter/process_facts.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "telemetry/system.h"

namespace hakmem::exporter {
namespace {

const std::string kId = "4f1c2a9be07d5a6c8e3b9d017c25fae64f1c2a9be07d5a6c8e3b9d017c25fae6";
const std::string kShortId = "4f1c2a9be07d";

std::string container(const std::string& text) { return home_from_cgroups(text).container; }
std::string unit(const std::string& text) { return home_from_cgroups(text).unit; }

TEST(Home, ContainersByTheirShortId) {
  EXPECT_EQ(container("0::/system.slice/docker-" + kId + ".scope\n"), kShortId);
  EXPECT_EQ(container("12:memory:/docker/" + kId + "\n1:name=systemd:/docker/" + kId + "\n"), kShortId);
  EXPECT_EQ(container("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod9a4c.slice/cri-containerd-" +
                      kId + ".scope\n"),
            kShortId);
  EXPECT_EQ(container("3:cpu:/kubepods/besteffort/pod9a4c0b1e-0d5f-4a51-8d31-b4a3e5a7a3b9/" + kId + "\n"), kShortId);
  EXPECT_EQ(
      container("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + kId + ".scope/container\n"),
      kShortId);
  EXPECT_EQ(unit("0::/system.slice/docker-" + kId + ".scope\n"), "") << "the unit of a container is the engine's";
}

TEST(Home, UnitsOutsideOfContainers) {
  EXPECT_EQ(unit("0::/system.slice/redis-server.service\n"), "redis-server.service");
  EXPECT_EQ(unit("0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n"),
            "postgresql@15-main.service");
  EXPECT_EQ(unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service\n"), "app-x.service");
  EXPECT_EQ(unit("0::/user.slice/user-0.slice/session-3.scope\n"), "session-3.scope");
  EXPECT_EQ(container("0::/system.slice/redis-server.service\n"), "");
}

TEST(Home, NothingWhereNothingIsKnown) {
  for (const char* text :
       {"", "0::/\n", "nonsense", "4:memory:/process_api/afdcc57053b5c5001b0a0a193d745e13\n", "0::/a\x01.service\n"}) {
    EXPECT_EQ(container(text), "") << text;
    EXPECT_EQ(unit(text), "") << text;
  }
}

TEST(ProcessFacts, OfThisProcess) {
  telemetry::ProcessStat stat{};
  ASSERT_TRUE(telemetry::read_process_stat(static_cast<uint32_t>(getpid()), &stat));
  telemetry::Identity own{};
  own.pid = static_cast<uint32_t>(getpid());
  own.pid_namespace = telemetry::own_pid_namespace();
  own.start_time = stat.start_time;
  EXPECT_FALSE(has_ended(own));
  EXPECT_GE(age_seconds(own), -0.1);
  EXPECT_LT(age_seconds(own), 60);
  ++own.start_time;
  EXPECT_TRUE(has_ended(own)) << "the pid was used again";
  own.pid_namespace = 0;
  EXPECT_FALSE(has_ended(own)) << "it had no /proc to tell its namespace from";
}

// A file of /proc that was opened cannot be read once its process is gone.
TEST(ProcessFacts, OfProcessesThatEndMeanwhile) {
  auto* before = signal(SIGCHLD, SIG_IGN);  // so that they are gone at once
  for (int i = 0; i < 300; ++i) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(0);
    do ASSERT_NO_THROW(home_of(static_cast<uint32_t>(child))) << "after " << i << " processes";
    while (kill(child, 0) == 0);
  }
  signal(SIGCHLD, before);
}

}  // namespace
}  // namespace hakmem::exporter
