// Limits of control groups, read from files as the kernel writes them.
#include "telemetry/cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace hakmem::telemetry {
namespace {

constexpr uint64_t kMebibyte = 1 << 20;
constexpr const char* kNoLimitOfVersion1 = "9223372036854771712";

class Cgroup : public testing::Test {
 protected:
  Cgroup() {
    std::string name = (std::filesystem::temp_directory_path() / "hakmem-cgroup-XXXXXX").string();
    root_ = mkdtemp(name.data());
  }
  ~Cgroup() override { std::filesystem::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  // One level of a hierarchy of version 2, or of version 1.
  void level2(const std::string& folder, const std::string& current, const std::string& limit) {
    write(folder + "/memory.current", current);
    write(folder + "/memory.max", limit);
  }
  void level1(const std::string& folder, const std::string& current, const std::string& limit) {
    write(folder + "/memory.usage_in_bytes", current);
    write(folder + "/memory.limit_in_bytes", limit);
  }
  // With a mount of the hierarchy that shows what is below `root` in `folder`.
  CgroupMemory read(const std::string& cgroups, const std::string& root, const std::string& folder,
                    const std::string& type) {
    write("cgroups", cgroups);
    write("mounts", "22 1 0:20 / /proc rw shared:1 - proc proc rw\n33 1 0:21 " + root + " " +
                        (root_ / folder).string() + " rw,nosuid shared:9 master:1 - " + type);
    CgroupReader reader;
    reader.find((root_ / "cgroups").c_str(), (root_ / "mounts").c_str());
    return reader.read();
  }

  std::filesystem::path root_;
};

TEST_F(Cgroup, OfVersion2HasTheLimitAboveIt) {
  level2("v2/a", std::to_string(300 * kMebibyte), std::to_string(1000 * kMebibyte));
  write("v2/a/memory.stat", "anon 1\ninactive_file 104857600\nactive_file 7");
  level2("v2/a/b", std::to_string(200 * kMebibyte), "max");
  CgroupMemory memory = read("0::/a/b", "/", "v2", "cgroup2 cgroup2 rw");
  EXPECT_EQ(memory.current, 300 * kMebibyte) << "of the group that is limited";
  EXPECT_EQ(memory.limit, 1000 * kMebibyte);
  EXPECT_EQ(memory.reclaimable, 100 * kMebibyte);
  EXPECT_EQ(memory.distance(), 800 * kMebibyte);
}

TEST_F(Cgroup, OfTwoLimitsTheNearerOneCounts) {
  level2("v2/a", std::to_string(990 * kMebibyte), std::to_string(1000 * kMebibyte));
  level2("v2/a/b", std::to_string(100 * kMebibyte), std::to_string(500 * kMebibyte));
  CgroupMemory memory = read("0::/a/b", "/", "v2", "cgroup2 cgroup2 rw");
  EXPECT_EQ(memory.current, 990 * kMebibyte);
  EXPECT_EQ(memory.distance(), 10 * kMebibyte);
  EXPECT_EQ(memory.reclaimable, kUnknownBytes) << "there is no such file";
}

TEST_F(Cgroup, OfVersion1InAContainerWhoseMountIsItsGroup) {
  level1("v1", std::to_string(60 * kMebibyte), std::to_string(64 * kMebibyte));
  write("v1/memory.stat", "inactive_file 1\ntotal_inactive_file 2097152");
  CgroupMemory memory =
      read("9:cpu:/other\n4:cpuset,memory:/docker/0123\n0::/", "/docker/0123", "v1", "cgroup cgroup rw,memory");
  EXPECT_EQ(memory.current, 60 * kMebibyte);
  EXPECT_EQ(memory.limit, 64 * kMebibyte);
  EXPECT_EQ(memory.distance(), 6 * kMebibyte);
}

TEST_F(Cgroup, WithoutALimitHasNoLimitAndNoDistance) {
  level1("v1", std::to_string(900 * kMebibyte), kNoLimitOfVersion1);
  level1("v1/a", std::to_string(60 * kMebibyte), kNoLimitOfVersion1);
  CgroupMemory memory = read("4:memory:/a", "/", "v1", "cgroup cgroup rw,memory");
  EXPECT_EQ(memory.current, 60 * kMebibyte);
  EXPECT_EQ(memory.limit, kUnknownBytes);
  EXPECT_EQ(memory.distance(), kUnknownBytes);
}

TEST_F(Cgroup, OverItsLimitHasNoDistanceLeft) {
  level2("v2/a", std::to_string(70 * kMebibyte), std::to_string(64 * kMebibyte));
  EXPECT_EQ(read("0::/a", "/", "v2", "cgroup2 cgroup2 rw").distance(), 0u);
}

TEST_F(Cgroup, ThatCannotBeReadIsUnknown) {
  level2("v2/a", "1", "2");
  for (const char* cgroups : {"", "nonsense", "0::/../elsewhere", "0::/missing", "4:memory:/a"})
    EXPECT_EQ(read(cgroups, "/", "v2", "cgroup2 cgroup2 rw").current, kUnknownBytes) << cgroups;
  EXPECT_EQ(read("0::/a", "/other", "v2", "cgroup2 cgroup2 rw").current, kUnknownBytes);
  EXPECT_EQ(read("0::/a", "/", "v2", "tmpfs tmpfs rw").current, kUnknownBytes);
  CgroupReader reader;
  reader.find("/nonexistent", "/nonexistent");
  EXPECT_EQ(reader.read().current, kUnknownBytes);
}

}  // namespace
}  // namespace hakmem::telemetry
