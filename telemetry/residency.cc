#include "telemetry/residency.h"

#include <errno.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "telemetry/map_reader.h"
#include "telemetry/pagemap.h"
#include "telemetry/stats_page.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constexpr size_t kMaxExporterFiles = 32;
constexpr size_t kMaxKnownFiles = 512;

// Hashes of the paths of mapped files. Written by the serving thread while it
// loads the module, read by the publisher, which that thread runs itself by then.
struct FileNotes {
  uint64_t before[kMaxKnownFiles];
  size_t before_count;
  uint64_t exporter[kMaxExporterFiles];
  std::atomic<size_t> exporter_count;
};
constinit FileNotes files{};

template <size_t kSize>
bool contains(const uint64_t (&hashes)[kSize], size_t count, uint64_t hash) {
  return std::find(hashes, hashes + count, hash) != hashes + count;
}

// Calls visit(begin, end) for the parts of [begin, end) inside, and outside(...)
// for those not inside, the ranges of a normalised list.
template <class Inside, class Outside>
void split(const RangeList& list, Range range, Inside inside, Outside outside) {
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

bool resident_pages(uintptr_t address, size_t bytes, unsigned char* pages) {
  int result;
  do result = mincore(reinterpret_cast<void*>(address), bytes, pages);
  while (result != 0 && errno == EAGAIN);
  return result == 0;
}

uint64_t resident_bytes(uintptr_t address, size_t bytes) {
  unsigned char pages[1024];
  uintptr_t begin = address & ~(kKernelPageBytes - 1);
  uintptr_t end = (address + bytes + kKernelPageBytes - 1) & ~(kKernelPageBytes - 1);
  uint64_t resident = 0;
  while (begin < end) {
    size_t count = std::min<size_t>((end - begin) / kKernelPageBytes, sizeof pages);
    if (resident_pages(begin, count * kKernelPageBytes, pages))
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
  *result = {};
  MapReader maps;
  PageMap page_map;
  if (!maps.is_open() || !page_map.is_open()) return false;
  PresentSums sums(&page_map);
  size_t exporter_count = files.exporter_count.load(std::memory_order_acquire);
  for (MapEntry entry; maps.next(&entry);) {
    // Pages of the kernel's own that no process is charged for.
    if (strncmp(entry.path, "[vvar", 5) == 0 || strcmp(entry.path, "[vsyscall]") == 0) continue;
    bool exporter_file = entry.path[0] == '/' && contains(files.exporter, exporter_count, hash_text(0, entry.path));
    auto not_ours = [&](Range range) {
      split(
          telemetry_ranges, range, [&](Range part) { sums.add(part, &result->telemetry); },
          [&](Range part) { sums.add(part, exporter_file ? &result->telemetry : &result->outside); });
    };
    split(
        ours, {entry.begin, entry.end}, [](Range) {}, not_ours);
  }
  return sums.finish();
}

void note_files_before() {
  MapReader maps;
  files.before_count = 0;
  for (MapEntry entry; maps.is_open() && maps.next(&entry);) {
    if (entry.path[0] != '/' || files.before_count == kMaxKnownFiles) continue;
    uint64_t hash = hash_text(0, entry.path);
    if (!contains(files.before, files.before_count, hash)) files.before[files.before_count++] = hash;
  }
}

void note_files_after() {
  MapReader maps;
  size_t count = 0;
  for (MapEntry entry; maps.is_open() && maps.next(&entry);) {
    if (entry.path[0] != '/' || count == kMaxExporterFiles || files.before_count == kMaxKnownFiles) continue;
    uint64_t hash = hash_text(0, entry.path);
    if (contains(files.before, files.before_count, hash) || contains(files.exporter, count, hash)) continue;
    files.exporter[count++] = hash;
  }
  files.exporter_count.store(count, std::memory_order_release);
}

}  // namespace hakmem::telemetry
