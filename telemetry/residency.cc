#include "telemetry/residency.h"

#include <errno.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>

#include "telemetry/map_reader.h"
#include "telemetry/pagemap.h"
#include "telemetry/stats_page.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constexpr size_t kMaxKnownObjects = 512;

// Where objects of the exporter are loaded; none of them is ever unloaded. In the order of their addresses.
struct ObjectRanges {
  Range ranges[256];
  size_t count;
  const Range* begin() const { return ranges; }
  const Range* end() const { return ranges + count; }
};

struct Objects {
  uintptr_t before[kMaxKnownObjects];  // where those are loaded that the program had
  size_t before_count;
  ObjectRanges exporter[2];   // one is written while the other may be read
  std::atomic<size_t> shown;  // of the two
};
constinit Objects objects{};

// Calls inside(range) for the parts of a range that are in a normalised list, and outside(range)
// for those that are not.
template <class List, class Inside, class Outside>
void split(const List& list, Range range, Inside inside, Outside outside) {
  const Range* next = std::upper_bound(list.begin(), list.end(), range.begin,
                                       [](uintptr_t address, const Range& r) { return address < r.end; });
  for (; range.begin < range.end && next != list.end() && next->begin < range.end; ++next) {
    if (next->begin > range.begin) outside(Range{range.begin, next->begin});
    uintptr_t begin = std::max(range.begin, next->begin);
    uintptr_t end = std::min(range.end, next->end);
    inside(Range{begin, end});
    range.begin = end;
  }
  if (range.begin < range.end) outside(range);
}

// Adds up what is present of ranges that come in the order of their addresses.
// Neighbours of one sum are asked for together: a thousand stacks and their guards
// are two thousand mappings, and a call for each costs more than what it finds.
class PresentSums {
 public:
  explicit PresentSums(PageMap* page_map) : page_map_(page_map) {}

  void add(Range range, uint64_t* sum) {
    if (sum == sum_ && range.begin == range_.end) {
      range_.end = range.end;
      return;
    }
    ask();
    range_ = range;
    sum_ = sum;
  }
  // Whether all of it is known.
  bool finish() {
    ask();
    return known_;
  }

 private:
  void ask() {
    if (sum_ == nullptr) return;
    uint64_t bytes = 0;
    known_ = page_map_->present_bytes(range_.begin, range_.end, &bytes) && known_;
    *sum_ += bytes;
  }

  PageMap* page_map_;
  Range range_{};
  uint64_t* sum_ = nullptr;
  bool known_ = true;
};

// Calls add(range, sum) for the parts of a range that is not the allocator's.
template <class Add>
void share_out(const RangeList& telemetry_ranges, Range range, MappingAccount* account, Add add) {
  auto to_telemetry = [&](Range part) { add(part, &account->telemetry); };
  auto to_outside = [&](Range part) { add(part, &account->outside); };
  const ObjectRanges& exporter = objects.exporter[objects.shown.load(std::memory_order_acquire)];
  split(telemetry_ranges, range, to_telemetry, [&](Range other) { split(exporter, other, to_telemetry, to_outside); });
}

// All that is not ours, range by range: the kernel skips what is not there.
bool scan_mappings(PageMap* page_map, const RangeList& ours, const RangeList& telemetry_ranges,
                   MappingAccount* account) {
  uintptr_t begin = 0;
  auto scan_up_to = [&](uintptr_t end) {
    return page_map->visit_present(begin, end, [&](Range run) {
      share_out(telemetry_ranges, run, account, [](Range part, uint64_t* sum) { *sum += part.end - part.begin; });
    });
  };
  for (const Range& own : ours) {
    if (!scan_up_to(own.begin)) return false;
    begin = own.end;
  }
  return scan_up_to(page_map->end_of_addresses());
}

// The same by the list of mappings, for kernels that cannot be asked about what is not mapped.
bool list_mappings(PageMap* page_map, const RangeList& ours, const RangeList& telemetry_ranges,
                   MappingAccount* account) {
  MapReader maps;
  if (!maps.is_open()) return false;
  PresentSums sums(page_map);
  for (MapEntry entry; maps.next(&entry);) {
    // Pages of the kernel's own that no process is charged for.
    if (strncmp(entry.path, "[vvar", 5) == 0 || strcmp(entry.path, "[vsyscall]") == 0) continue;
    split(
        ours, {entry.begin, entry.end}, [](Range) {},
        [&](Range other) {
          share_out(telemetry_ranges, other, account, [&](Range part, uint64_t* sum) { sums.add(part, sum); });
        });
  }
  return sums.finish();
}

int add_known(dl_phdr_info* object, size_t, void*) {
  if (objects.before_count == kMaxKnownObjects) return 1;
  objects.before[objects.before_count++] = object->dlpi_addr;
  return 0;
}

// The loader has reserved all from an object's first segment to its last.
int add_new(dl_phdr_info* object, size_t, void* list) {
  const uintptr_t* known_end = objects.before + objects.before_count;
  if (std::find<const uintptr_t*>(objects.before, known_end, object->dlpi_addr) != known_end) return 0;
  Range range{UINTPTR_MAX, 0};
  for (size_t i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = object->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    uintptr_t begin = object->dlpi_addr + header.p_vaddr;
    range.begin = std::min(range.begin, begin & ~(kKernelPageBytes - 1));
    range.end = std::max(range.end, (begin + header.p_memsz + kKernelPageBytes - 1) & ~(kKernelPageBytes - 1));
  }
  auto* found = static_cast<ObjectRanges*>(list);
  if (found->count == std::size(found->ranges)) return 1;
  if (range.begin < range.end) found->ranges[found->count++] = range;
  return 0;
}

}  // namespace

void RangeList::add(uintptr_t address, size_t bytes) {
  if (bytes == 0) return;
  if (count_ == capacity_) {
    size_t capacity = capacity_ == 0 ? 4096 / sizeof(Range) : capacity_ * 2;
    void* grown = mmap(nullptr, capacity * sizeof(Range), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (grown == MAP_FAILED) {
      complete_ = false;
      return;
    }
    if (count_ != 0) {
      memcpy(grown, static_cast<void*>(ranges_), count_ * sizeof(Range));
      munmap(ranges_, capacity_ * sizeof(Range));
    }
    ranges_ = static_cast<Range*>(grown);
    capacity_ = capacity;
  }
  ranges_[count_++] = {address, address + bytes};
}

void RangeList::normalise() {
  if (count_ == 0) return;
  std::sort(ranges_, ranges_ + count_, [](const Range& a, const Range& b) { return a.begin < b.begin; });
  size_t last = 0;
  for (size_t i = 1; i < count_; ++i) {
    if (ranges_[i].begin <= ranges_[last].end) {
      ranges_[last].end = std::max(ranges_[last].end, ranges_[i].end);
    } else {
      ranges_[++last] = ranges_[i];
    }
  }
  count_ = last + 1;
}

namespace {

// As mincore, of anonymous memory; some times slower.
bool pages_by_pagemap(uintptr_t address, size_t count, unsigned char* pages) {
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  memset(pages, 0, count);
  uint64_t entries[128];
  bool is_read = true;
  for (size_t done = 0; done < count && is_read;) {
    size_t bytes = std::min(count - done, sizeof entries / sizeof entries[0]) * sizeof entries[0];
    auto offset = static_cast<off_t>((address / kKernelPageBytes + done) * sizeof entries[0]);
    ssize_t length = pread(fd, entries, bytes, offset);
    is_read = length >= static_cast<ssize_t>(sizeof entries[0]);
    for (ssize_t i = 0; i < length / static_cast<ssize_t>(sizeof entries[0]); ++i)
      pages[done++] = static_cast<unsigned char>(entries[i] >> 63);
  }
  close(fd);
  return is_read;
}

}  // namespace

bool may_ask_mincore() { return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) <= 0; }

bool resident_pages(uintptr_t address, size_t bytes, unsigned char* pages, bool by_mincore) {
  if (!by_mincore) return pages_by_pagemap(address, bytes / kKernelPageBytes, pages);
  int result;
  do result = mincore(reinterpret_cast<void*>(address), bytes, pages);
  while (result != 0 && errno == EAGAIN);
  return result == 0;
}

uint64_t resident_bytes(uintptr_t address, size_t bytes, bool by_mincore) {
  unsigned char pages[1024];
  uintptr_t begin = address & ~(kKernelPageBytes - 1);
  uintptr_t end = (address + bytes + kKernelPageBytes - 1) & ~(kKernelPageBytes - 1);
  uint64_t resident = 0;
  while (begin < end) {
    size_t count = std::min<size_t>((end - begin) / kKernelPageBytes, sizeof pages);
    if (resident_pages(begin, count * kKernelPageBytes, pages, by_mincore))
      resident += count_resident(pages, count) * kKernelPageBytes;
    begin += count * kKernelPageBytes;
  }
  return resident;
}

uint64_t process_resident_bytes() {
  char buffer[128];
  if (read_small_file("/proc/self/statm", buffer, sizeof buffer) <= 0) return 0;
  const char* field = strchr(buffer, ' ');
  if (field == nullptr) return 0;
  ++field;
  return parse_decimal(&field) * kKernelPageBytes;
}

bool read_rollup(Rollup* result) {
  char buffer[1024];
  if (read_small_file("/proc/self/smaps_rollup", buffer, sizeof buffer) <= 0) return false;
  auto field = [&](const char* name, uint64_t* bytes) {
    const char* found = strstr(buffer, name);
    if (found == nullptr) return false;
    found += strlen(name);
    found += strspn(found, " ");
    *bytes = parse_decimal(&found) * 1024;
    return true;
  };
  return field("\nRss:", &result->resident) && field("\nAnonHugePages:", &result->huge_pages) &&
         field("\nLazyFree:", &result->lazily_freed) && field("\nSwap:", &result->swapped);
}

bool account_for_mappings(const RangeList& ours, const RangeList& telemetry_ranges, MappingAccount* result) {
  PageMap page_map;
  if (!page_map.is_open()) return false;
  *result = {};
  if (page_map.end_of_addresses() != 0 && scan_mappings(&page_map, ours, telemetry_ranges, result)) return true;
  *result = {};
  return list_mappings(&page_map, ours, telemetry_ranges, result);
}

void note_objects_before() {
  objects.before_count = 0;
  dl_iterate_phdr(add_known, nullptr);
}

void note_objects_after() {
  if (objects.before_count == kMaxKnownObjects) return;
  size_t shown = objects.shown.load(std::memory_order_relaxed);
  ObjectRanges& found = objects.exporter[1 - shown];
  found = objects.exporter[shown];  // a forked child has its parent's
  dl_iterate_phdr(add_new, &found);
  std::sort(found.ranges, found.ranges + found.count, [](const Range& a, const Range& b) { return a.begin < b.begin; });
  objects.shown.store(1 - shown, std::memory_order_release);
}

}  // namespace hakmem::telemetry
