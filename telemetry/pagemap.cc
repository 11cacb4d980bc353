#include "telemetry/pagemap.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

// PAGEMAP_SCAN of linux/fs.h, Linux 6.7: present pages as runs, holes skipped.
// Defined here as the oldest headers we build with do not have it.
struct ScanArguments {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct ScanRegion {
  uint64_t start, end, categories;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr uint64_t kPresent = 1 << 3;
constexpr uint64_t kZeroPage = 1 << 5;  // present, but nobody is charged for it

// Static, as the stacks of the host's threads may be small; so many as one page table has room for.
constinit ScanRegion regions[512]{};

constexpr uint64_t kEntryPresent = uint64_t{1} << 63;
// Without the scan a page costs 8 bytes of reading whether it is there or not:
// 16 GiB of addresses are some 30 ms.
constexpr uint64_t kMaxEntries = 4 << 20;

}  // namespace

PageMap::PageMap() : fd_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)), entries_left_(kMaxEntries) {}

PageMap::~PageMap() {
  if (fd_ >= 0) close(fd_);
}

bool PageMap::present_bytes(uintptr_t begin, uintptr_t end, uint64_t* bytes) {
  *bytes = 0;
  if (begin >= end) return true;
  if (can_scan_) {
    if (visit_present(begin, end, [bytes](Range run) { *bytes += run.end - run.begin; })) return true;
    can_scan_ = false;
    *bytes = 0;
  }
  return read_entries(begin, end, bytes);
}

uintptr_t PageMap::end_of_addresses() {
  static constinit uintptr_t end_found = 0;
  // The kernel refuses what lies beyond; how far that is depends on its build and the processor.
  for (uint32_t bits = 56; end_found == 0 && can_scan_ && bits >= 32; --bits) {
    uintptr_t end = (uintptr_t{1} << bits) - kKernelPageBytes;
    uintptr_t begin = end - kKernelPageBytes;
    if (scan(&begin, end) >= 0)
      end_found = end;
    else
      can_scan_ = errno == EFAULT;
  }
  return end_found;
}

int PageMap::scan(uintptr_t* begin, uintptr_t end) {
  ScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.start = *begin;
  arguments.end = end;
  arguments.vec = reinterpret_cast<uint64_t>(regions);
  arguments.vec_len = sizeof regions / sizeof regions[0];
  arguments.category_mask = kPresent | kZeroPage;
  arguments.category_inverted = kZeroPage;
  arguments.return_mask = kPresent;
  int count;
  do count = ioctl(fd_, kPagemapScan, &arguments);
  while (count < 0 && errno == EINTR);
  if (count < 0 || arguments.walk_end <= *begin) return -1;
  *begin = arguments.walk_end;
  return count;
}

Range PageMap::run_at(int index) { return {regions[index].start, regions[index].end}; }

bool PageMap::read_entries(uintptr_t begin, uintptr_t end, uint64_t* bytes) {
  uint64_t entries[128];
  if ((end - begin) / kKernelPageBytes > entries_left_) return false;
  entries_left_ -= (end - begin) / kKernelPageBytes;
  while (begin < end) {
    size_t wanted = std::min<size_t>((end - begin) / kKernelPageBytes, 128) * sizeof entries[0];
    ssize_t count = pread(fd_, entries, wanted, static_cast<off_t>(begin / kKernelPageBytes * sizeof entries[0]));
    if (count < 0 && errno == EINTR) continue;
    if (count < static_cast<ssize_t>(sizeof entries[0])) return count == 0;  // the kernel's half of addresses
    size_t pages = static_cast<size_t>(count) / sizeof entries[0];
    for (size_t i = 0; i < pages; ++i)
      if (entries[i] & kEntryPresent) *bytes += kKernelPageBytes;
    begin += pages * kKernelPageBytes;
  }
  return true;
}

}  // namespace hakmem::telemetry
