#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "exporter/cli/commands.h"
#include "exporter/page_directory.h"

namespace hakmem::cli {
namespace {

using metrics::Metric;
using telemetry::Snapshot;

constexpr auto kInterval = std::chrono::seconds(2);

uint64_t refills(const Snapshot& snapshot) {
  uint64_t sum = 0;
  for (uint32_t slot = 0; slot < metrics::shape_of(Metric::kRefills).slots(); ++slot)
    sum += snapshot.counter(Metric::kRefills, slot);
  return sum;
}

double live_bytes(const Snapshot& snapshot) {
  double sum = 0;
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class)
    sum += snapshot.gauge(Metric::kLiveBytes, size_class);
  return sum;
}

double heap_resident(const Snapshot& snapshot) {
  double bytes = snapshot.gauge(Metric::kHeapResidentBytes, 0);
  return std::isnan(bytes) ? -1 : bytes;
}

size_t screen_lines() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 4 ? size.ws_row : 24;
}

std::string share(double ratio) {
  if (std::isnan(ratio)) return "-";
  char text[16];
  snprintf(text, sizeof text, "%.1f %%", 100 * ratio);
  return text;
}

// Figures of one moment; `before` holds the refills of the last one by file.
void print_table(const exporter::PageDirectory& directory, std::map<std::string, uint64_t>* before, double seconds,
                 size_t max_rows) {
  using Row = std::pair<const std::string, exporter::Page>;
  std::vector<const Row*> rows;
  for (const Row& row : directory.pages())
    if (row.second.good) rows.push_back(&row);
  std::sort(rows.begin(), rows.end(), [](const Row* a, const Row* b) {
    return heap_resident(a->second.snapshot) > heap_resident(b->second.snapshot);
  });
  printf("%8s %-16s %12s %12s %12s %10s %10s %8s %12s\n", "PID", "COMM", "RSS", "HEAP", "LIVE", "INTERNAL", "EXTERNAL",
         "THREADS", "REFILLS/s");
  for (const Row* row : rows) {
    const Snapshot& snapshot = row->second.snapshot;
    uint64_t now = refills(snapshot);
    auto last = before->find(row->first);
    std::string rate = "-";
    if (last != before->end() && seconds > 0) {
      char text[24];
      snprintf(text, sizeof text, "%.0f", static_cast<double>(now - last->second) / seconds);
      rate = text;
    }
    (*before)[row->first] = now;
    if (max_rows-- == 0) break;
    double threads = snapshot.gauge(Metric::kThreads, 0);
    // In digits enough for every number of threads: the page may say anything.
    char threads_text[16] = "-";
    if (!std::isnan(threads)) snprintf(threads_text, sizeof threads_text, "%.8g", threads);
    uint32_t pid = row->second.pid_here.value_or(0);
    if (pid == 0) pid = snapshot.identity.pid;  // which cannot be seen from here
    printf("%8u %-16s %12s %12s %12s %10s %10s %8s %12s\n", pid, snapshot.comm.c_str(),
           size_text(snapshot.gauge(Metric::kProcessResidentBytes, 0)).c_str(),
           size_text(snapshot.gauge(Metric::kHeapResidentBytes, 0)).c_str(), size_text(live_bytes(snapshot)).c_str(),
           share(snapshot.gauge(Metric::kFragmentationRatio, 0)).c_str(),
           share(snapshot.gauge(Metric::kFragmentationRatio, 1)).c_str(), threads_text, rate.c_str());
  }
}

}  // namespace

int top(const Arguments& arguments) {
  bool once = arguments.size() == 1 && arguments[0] == "--once";
  if (!arguments.empty() && !once) return wrong_use("usage: hakmem top [--once]");
  // Looks only: removing stale pages is hakmem-exporter's work.
  exporter::PageDirectory directory(pages_directory());
  directory.keep_stale_files();
  std::map<std::string, uint64_t> before;
  auto last = std::chrono::steady_clock::now();
  for (;;) {
    directory.refresh();
    auto now = std::chrono::steady_clock::now();
    if (!once) printf("\033[H\033[2J");
    print_table(directory, &before, std::chrono::duration<double>(now - last).count(),
                once ? SIZE_MAX : screen_lines() - 2);
    fflush(stdout);
    if (once || ferror(stdout)) return 0;
    last = now;
    std::this_thread::sleep_for(kInterval);
  }
}

}  // namespace hakmem::cli
