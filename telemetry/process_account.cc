#include "telemetry/process_account.h"

#include "telemetry/figures.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

using metrics::CgroupFigure;
using metrics::KernelState;
using metrics::Metric;

// smaps_rollup takes longer than all else, so it is read for one part in 2,000 of
// the time on a thread of ours; on a host's thread for one in 100,000, and not
// where it would hold the thread up for more than kMaxRollupCost.
constexpr uint64_t kScrapeRollupShare = 2'000;
constexpr uint64_t kHostRollupShare = 100'000;
constexpr uint64_t kMaxRollupCost = 10'000'000;

struct Kernel {
  Rollup rollup;
  bool has_rollup;
  bool statm_is_off;
  bool rollup_is_wanted;  // by the last scrape
  uint64_t last_rollup;   // CLOCK_MONOTONIC; 0: none
  uint64_t cgroup_text;   // hash of what /proc/self/cgroup said
  uint64_t rare_cost;     // nanoseconds of the present account that the next will not need
  CgroupReader cgroup;
};
constinit Kernel kernel{};

bool rollup_is_due(uint64_t resident, Depth depth) {
  uint64_t cost = rollup_cost(resident);
  if (depth != Depth::Scrape && cost > kMaxRollupCost) return false;
  uint64_t wait = cost * (depth == Depth::Scrape ? kScrapeRollupShare : kHostRollupShare);
  return kernel.last_rollup == 0 || clock_nanoseconds(CLOCK_MONOTONIC) - kernel.last_rollup >= wait;
}

// statm is cheap, but older kernels keep it by thread and let it lag. So it is
// held against the exact account when that is read, and where it is found to be
// off the exact one is used from then on.
void look_at_rollup(uint64_t total) {
  kernel.rollup_is_wanted = false;
  uint64_t start = clock_nanoseconds(CLOCK_MONOTONIC);
  kernel.last_rollup = start;
  bool is_read = read_rollup(&kernel.rollup);
  kernel.rare_cost += clock_nanoseconds(CLOCK_MONOTONIC) - start;
  if (!is_read) return;
  kernel.has_rollup = true;
  kernel.statm_is_off = kernel.statm_is_off || is_off(total, kernel.rollup.resident);
}

uint64_t process_total(Depth depth) {
  uint64_t total = process_resident_bytes();
  if (kernel.statm_is_off) return read_rollup(&kernel.rollup) ? kernel.rollup.resident : total;
  if (!rollup_is_due(total, depth)) return total;
  // A scrape does not wait for it, but for the first one, and where statm is off.
  if (depth == Depth::Scrape && kernel.last_rollup != 0) {
    kernel.rollup_is_wanted = true;
    return total;
  }
  look_at_rollup(total);
  return kernel.statm_is_off ? kernel.rollup.resident : total;
}

// The mounts, which may be many, are searched again only when the process was
// moved to another cgroup.
CgroupMemory cgroup_memory() {
  constexpr const char* kFile = "/proc/self/cgroup";
  char text[1024];
  if (read_small_file(kFile, text, sizeof text) <= 0) return {};
  if (uint64_t hash = hash_text(0, text); hash != kernel.cgroup_text) {
    uint64_t start = clock_nanoseconds(CLOCK_MONOTONIC);
    kernel.cgroup_text = hash;
    kernel.cgroup.find(kFile, "/proc/self/mountinfo");
    kernel.rare_cost += clock_nanoseconds(CLOCK_MONOTONIC) - start;
  }
  return kernel.cgroup.read();
}

// The process's total and what is not ours, read as near to each other as it gets.
void ask(const RangeList& ours, const RangeList& telemetry_ranges, uint64_t heap_resident, Depth depth,
         ProcessAccount* result) {
  MappingAccount mappings;
  uint64_t resident = process_total(depth);
  if (ours.complete() && telemetry_ranges.complete() && resident != 0 &&
      account_for_mappings(ours, telemetry_ranges, &mappings)) {
    result->telemetry = static_cast<double>(mappings.telemetry);
    result->outside = static_cast<double>(mappings.outside);
    result->resident = static_cast<double>(resident);
    result->unexplained = result->resident - result->outside - static_cast<double>(heap_resident + mappings.telemetry);
  }
  result->cgroup = cgroup_memory();
}

void store_account(const ProcessAccount& account) {
  store<Metric::kResidentBytes>(metrics::Part::Outside, account.outside);
  store<Metric::kProcessResidentBytes>(0, account.resident);
  store<Metric::kResidentUnexplained>(0, account.unexplained);
  store<Metric::kProcessMemory>(KernelState::HugePages, account.huge_pages);
  store<Metric::kProcessMemory>(KernelState::LazilyFreed, account.lazily_freed);
  store<Metric::kProcessMemory>(KernelState::Swapped, account.swapped);
  auto figure = [](CgroupFigure which, uint64_t bytes) {
    store<Metric::kCgroupMemory>(which, bytes == kUnknownBytes ? kNotMeasured : static_cast<double>(bytes));
  };
  figure(CgroupFigure::Current, account.cgroup.current);
  figure(CgroupFigure::Reclaimable, account.cgroup.reclaimable);
  figure(CgroupFigure::Limit, account.cgroup.limit);
  figure(CgroupFigure::Distance, account.cgroup.distance());
}

}  // namespace

ProcessAccount publish_process(const RangeList& ours, const RangeList& telemetry_ranges, uint64_t heap_resident,
                               Depth depth) {
  ProcessAccount account;
  kernel.rare_cost = 0;
  if (depth != Depth::Heap) ask(ours, telemetry_ranges, heap_resident, depth, &account);
  if (kernel.has_rollup) {
    account.huge_pages = static_cast<double>(kernel.rollup.huge_pages);
    account.lazily_freed = static_cast<double>(kernel.rollup.lazily_freed);
    account.swapped = static_cast<double>(kernel.rollup.swapped);
  }
  account.rare_cost = kernel.rare_cost;
  store_account(account);
  return account;
}

bool is_rollup_wanted() { return kernel.rollup_is_wanted; }

void read_wanted_rollup() { look_at_rollup(process_resident_bytes()); }

void forget_parent_account() {
  kernel.rollup_is_wanted = false;
  kernel.has_rollup = false;
  kernel.last_rollup = 0;
}

}  // namespace hakmem::telemetry
