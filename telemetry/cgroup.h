// What the kernel charges to the control group of this process, and how far
// that is from its limit. Version 1 and 2 of the kernel's interface.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

// What could not be read, and the limit of a group that has none.
inline constexpr uint64_t kUnknownBytes = UINT64_MAX;

// Bytes. Of the limited group, this process's own or one above it, that is
// nearest to its limit; where none is limited, of the process's own group.
struct CgroupMemory {
  uint64_t current = kUnknownBytes;
  uint64_t reclaimable = kUnknownBytes;  // of these: file cache not used lately, which the kernel drops first
  uint64_t limit = kUnknownBytes;

  // What may still be taken before the kernel kills.
  uint64_t distance() const {
    if (current == kUnknownBytes || limit == kUnknownBytes) return kUnknownBytes;
    uint64_t dropped = reclaimable == kUnknownBytes || reclaimable > current ? 0 : reclaimable;
    uint64_t needed = current - dropped;
    return needed < limit ? limit - needed : 0;
  }
};

// Knows the folder of the group. One thread at a time.
class CgroupReader {
 public:
  // Finds the folder from files like /proc/self/cgroup and /proc/self/mountinfo.
  void find(const char* cgroups, const char* mounts);
  // Reads a few small files a level of the hierarchy.
  CgroupMemory read();

 private:
  const char* file(size_t length, const char* version1, const char* version2);
  uint64_t read_figure(size_t length, const char* version1, const char* version2);
  uint64_t read_reclaimable(size_t length);

  bool is_version1_ = false;
  size_t root_ = 0;    // length of the part that is the mount point
  size_t length_ = 0;  // 0: not found
  char folder_[1024] = "";
};

}  // namespace hakmem::telemetry
