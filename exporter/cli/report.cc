#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "exporter/cli/commands.h"
#include "exporter/labels.h"
#include "exporter/page_directory.h"
#include "telemetry/snapshot.h"
#include "telemetry/system.h"

namespace hakmem::cli {
namespace {

using metrics::kCountOf;
using metrics::Metric;
using telemetry::Snapshot;

constexpr size_t kWastefulClasses = 10;

std::string percent(double part, double whole) {
  if (std::isnan(part) || std::isnan(whole) || whole <= 0) return "-";
  char text[16];
  snprintf(text, sizeof text, "%.1f %%", 100 * part / whole);
  return text;
}

void print_heading(const Snapshot& snapshot) {
  printf("%s (pid %u), hakmem %s, %s build", snapshot.comm.c_str(), snapshot.identity.pid, snapshot.version.c_str(),
         snapshot.build.c_str());
  const char* end = exporter::has_ended(snapshot.identity) ? "; the process has ended" : "";
  double published = snapshot.gauge(Metric::kPublishTime, 0);
  if (std::isnan(published)) {
    printf(": its heap was not measured%s\n", end);
    return;
  }
  double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  printf(", measured %.0f s ago%s\n", std::max(0.0, now - published), end);
}

// Only those that there are: most processes have none of them.
void print_states(const Snapshot& snapshot) {
  constexpr const char* kTexts[] = {"of it in huge pages", "of it lazily freed", "beside it, swapped"};
  for (uint32_t state = 0; state < kCountOf<metrics::KernelState>; ++state) {
    double bytes = snapshot.gauge(Metric::kProcessMemory, state);
    if (bytes > 0) printf("  %-24s %14s\n", kTexts[state], size_text(bytes).c_str());
  }
}

void print_cgroup(const Snapshot& snapshot) {
  auto figure = [&](metrics::CgroupFigure which) {
    return snapshot.gauge(Metric::kCgroupMemory, static_cast<uint32_t>(which));
  };
  double limit = figure(metrics::CgroupFigure::Limit);
  if (std::isnan(limit)) return;
  double distance = figure(metrics::CgroupFigure::Distance);
  printf("\nCgroup\n  %-24s %14s\n", "limit", size_text(limit).c_str());
  printf("  %-24s %14s\n", "in use", size_text(figure(metrics::CgroupFigure::Current)).c_str());
  printf("  %-24s %14s %9s\n", "distance to the limit", size_text(distance).c_str(), percent(distance, limit).c_str());
}

void print_resident(const Snapshot& snapshot) {
  double total = snapshot.gauge(Metric::kProcessResidentBytes, 0);
  if (std::isnan(total)) total = snapshot.gauge(Metric::kHeapResidentBytes, 0);
  printf("\nResident memory %25s\n", size_text(total).c_str());
  for (uint32_t part = 0; part < kCountOf<metrics::Part>; ++part) {
    double bytes = snapshot.gauge(Metric::kResidentBytes, part);
    printf("  %-24s %14s %9s\n", metrics::kPartNames[part], size_text(bytes).c_str(), percent(bytes, total).c_str());
  }
  double unexplained = snapshot.gauge(Metric::kResidentUnexplained, 0);
  printf("  %-24s %14s %9s\n", "unexplained", size_text(unexplained).c_str(), percent(unexplained, total).c_str());
  print_states(snapshot);
  print_cgroup(snapshot);
  printf("\nFragmentation\n");
  for (uint32_t kind = 0; kind < kCountOf<metrics::Fragmentation>; ++kind)
    printf("  %-24s %14s %9s\n", metrics::kFragmentationNames[kind],
           size_text(snapshot.gauge(Metric::kFragmentationBytes, kind)).c_str(),
           percent(snapshot.gauge(Metric::kFragmentationRatio, kind), 1).c_str());
}

// What a reader should look at first.
void print_findings(const Snapshot& snapshot) {
  bool has_any = false;
  for (uint32_t finding = 0; finding < kCountOf<metrics::Finding>; ++finding) {
    if (snapshot.gauge(Metric::kDiagnosis, finding) != 1) continue;
    if (!has_any) printf("\nFindings\n");
    has_any = true;
    printf("  %s: %s\n", metrics::kFindings[finding].name, metrics::kFindings[finding].advice);
  }
  if (!has_any) printf("\nNo findings\n");
}

std::string time_text(double timestamp) {
  if (std::isnan(timestamp)) return "never";
  auto moment = static_cast<time_t>(timestamp);
  tm broken_down{};
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", localtime_r(&moment, &broken_down));
  return text;
}

void print_peak_and_purging(const Snapshot& snapshot) {
  auto peak = [&](metrics::AtPeak which) { return snapshot.gauge(Metric::kPeak, static_cast<uint32_t>(which)); };
  printf("\nMost live, at %s\n", time_text(snapshot.gauge(Metric::kPeakTime, 0)).c_str());
  printf("  %-24s %14s\n", "live", size_text(peak(metrics::AtPeak::Live)).c_str());
  printf("  %-24s %14s\n", "resident heap", size_text(peak(metrics::AtPeak::HeapResident)).c_str());
  printf("  %-24s %24s\n", "realized fragmentation",
         percent(snapshot.gauge(Metric::kRealizedFragmentation, 0), 1).c_str());
  printf("\nPurging, last run %s\n", time_text(snapshot.gauge(Metric::kLastPurge, 0)).c_str());
  printf("  %-24s %14s\n", "given back so far",
         size_text(static_cast<double>(snapshot.counter(Metric::kPurgedBytes, 0))).c_str());
  printf("  %-24s %14s\n", "held back", size_text(snapshot.gauge(Metric::kPurgeHoldBack, 0)).c_str());
  printf("  %-24s %14s\n", "backlog", size_text(snapshot.gauge(Metric::kPurgeBacklog, 0)).c_str());
}

// Of now, as the time in superslab_refill is; of an ended process, or one of a container that is not seen, as
// of when its figures were measured.
double cpu_seconds(const Snapshot& snapshot) {
  double measured = static_cast<double>(snapshot.counter(Metric::kProcessCpu, 0)) / 1e9;
  telemetry::ProcessStat stat{};
  uint32_t pid_here = exporter::Processes().pid_of(snapshot.identity);
  if (pid_here == 0 || exporter::has_ended(snapshot.identity, pid_here) ||
      !telemetry::read_process_stat(pid_here, &stat))
    return measured;
  return std::max(measured, static_cast<double>(stat.cpu_ticks) / static_cast<double>(sysconf(_SC_CLK_TCK)));
}

void print_superslab_refill(const Snapshot& snapshot) {
  double seconds[kCountOf<metrics::RefillStep>];
  double sum = 0;
  for (uint32_t step = 0; step < kCountOf<metrics::RefillStep>; ++step) {
    uint32_t slot = step * metrics::kHistogramSlots + metrics::kHistogramBuckets;
    seconds[step] = static_cast<double>(snapshot.counter(Metric::kSuperslabRefillTime, slot)) / 1e9;
    sum += seconds[step];
  }
  printf("\nsuperslab_refill %20.1f ms %9s of the CPU time\n", sum * 1e3, percent(sum, cpu_seconds(snapshot)).c_str());
  for (uint32_t step = 0; step < kCountOf<metrics::RefillStep>; ++step)
    printf("  %-24s %11.1f ms %9s\n", metrics::kRefillStepNames[step], seconds[step] * 1e3,
           percent(seconds[step], sum).c_str());
}

// Bytes of a class that nobody uses: rounding, and free blocks in its slabs.
double waste(const Snapshot& snapshot, uint32_t size_class) {
  constexpr uint32_t kKinds = kCountOf<metrics::Fragmentation>;
  double bytes = 0;
  for (uint32_t kind = 0; kind < kKinds; ++kind)
    bytes += snapshot.gauge(Metric::kClassFragmentationBytes, size_class * kKinds + kind);
  return std::isnan(bytes) ? 0 : bytes;
}

void print_size_classes(const Snapshot& snapshot) {
  std::vector<uint32_t> classes;
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class)
    if (waste(snapshot, size_class) > 0) classes.push_back(size_class);
  std::sort(classes.begin(), classes.end(),
            [&](uint32_t a, uint32_t b) { return waste(snapshot, a) > waste(snapshot, b); });
  if (classes.size() > kWastefulClasses) classes.resize(kWastefulClasses);
  if (classes.empty()) return;
  printf("\nMost wasteful size classes\n  %8s %12s %12s %12s %12s %12s %10s\n", "size", "slabs", "live", "internal",
         "external", "compactable", "occupancy");
  for (uint32_t size_class : classes) {
    uint32_t first = size_class * kCountOf<metrics::Fragmentation>;
    printf("  %8s %12s %12s %12s %12s %12s %10s\n", exporter::size_class_name(size_class, snapshot.class_bytes).c_str(),
           size_text(snapshot.gauge(Metric::kSlabBytes, size_class)).c_str(),
           size_text(snapshot.gauge(Metric::kLiveBytes, size_class)).c_str(),
           size_text(snapshot.gauge(Metric::kClassFragmentationBytes, first)).c_str(),
           size_text(snapshot.gauge(Metric::kClassFragmentationBytes, first + 1)).c_str(),
           size_text(snapshot.gauge(Metric::kCompactableBytes, size_class)).c_str(),
           percent(snapshot.gauge(Metric::kSlabOccupancy, size_class), 1).c_str());
  }
}

}  // namespace

int report(const Arguments& arguments) {
  if (arguments.size() != 1) return wrong_use("usage: hakmem report PID|FILE");
  std::string file = arguments[0];
  uint32_t pid = 0;
  auto [end, error] = std::from_chars(file.data(), file.data() + file.size(), pid);
  if (error == std::errc{} && end == file.data() + file.size()) {
    file = exporter::find_page(pages_directory(), pid);
    if (file.empty()) file = exporter::find_page_of_ended(pages_directory(), pid);
    if (file.empty())
      return wrong_use("process " + arguments[0] + " has no stats page in " + pages_directory() +
                       "; see `hakmem check " + arguments[0] + "`");
  }
  int fd = telemetry::open_page(file);
  if (fd < 0) return wrong_use(file + " cannot be opened");
  Snapshot snapshot;
  telemetry::PageVerdict verdict = telemetry::read_snapshot(fd, &snapshot);
  telemetry::PageHistory history;
  if (verdict.good()) history = telemetry::read_history(fd);
  close(fd);
  if (verdict.state == telemetry::PageState::Unfinished) return wrong_use(file + " is being made just now");
  if (!verdict.good())
    return wrong_use(file + " is not a stats page that this version reads: " +
                     metrics::kPageProblemNames[static_cast<size_t>(verdict.problem)]);
  print_heading(snapshot);
  print_findings(snapshot);
  print_resident(snapshot);
  print_peak_and_purging(snapshot);
  print_superslab_refill(snapshot);
  print_size_classes(snapshot);
  // The address of a container's process may be another's here.
  if (snapshot.serving && exporter::is_of_this_namespace(snapshot.identity) && !exporter::has_ended(snapshot.identity))
    printf("\nWho holds it: `hakmem profile %u`; which call sites keep growing: /debug/leaks of its endpoint\n",
           snapshot.identity.pid);
  double published = snapshot.gauge(Metric::kPublishTime, 0);
  if (published > 0 && published < 1e11) print_history(history, static_cast<uint64_t>(published * 1e9));
  return 0;
}

}  // namespace hakmem::cli
