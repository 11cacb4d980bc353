#include <algorithm>
#include <cmath>
#include <cstdio>

#include "exporter/cli/commands.h"
#include "telemetry/snapshot.h"

namespace hakmem::cli {
namespace {

using telemetry::HistoryFigures;

constexpr size_t kMaxRows = 16;

double seconds_between(uint64_t earlier, uint64_t later) {
  return later < earlier ? 0 : static_cast<double>(later - earlier) / 1e9;
}

// What a counter rose by in a second; counters of a hostile page may fall.
double rate(uint64_t before, uint64_t after, double seconds) {
  return after < before || seconds <= 0 ? std::nan("") : static_cast<double>(after - before) / seconds;
}

std::string number_text(double number, const char* format) {
  if (std::isnan(number)) return "-";
  char text[32];
  snprintf(text, sizeof text, format, number);
  return text;
}

void print_row(const HistoryFigures& row, const HistoryFigures* before, uint64_t end) {
  double seconds = before != nullptr ? seconds_between(before->realtime, row.realtime) : 0;
  const HistoryFigures& last = before != nullptr ? *before : row;
  char ago[32];
  snprintf(ago, sizeof ago, "-%.0f s", seconds_between(row.realtime, end));
  printf("  %7s", ago);
  for (double bytes :
       {row.resident, row.live, row.retained, row.thread_cache, row.slab_free, row.outside, row.unexplained})
    printf(" %11s", size_text(bytes).c_str());
  printf(" %13s %11s %9s\n", number_text(rate(last.allocations, row.allocations, seconds), "%.0f").c_str(),
         size_text(rate(last.purged_bytes, row.purged_bytes, seconds)).c_str(),
         number_text(100 * rate(last.refill_nanoseconds, row.refill_nanoseconds, seconds) / 1e9, "%.1f %%").c_str());
}

}  // namespace

void print_history(const telemetry::PageHistory& history, uint64_t end) {
  if (history.entries.empty()) return;
  printf("\nThe last minutes (refill: share of one processor in superslab_refill)\n  %7s", "");
  for (const char* name : {"resident", "live", "retained", "thr. cache", "slab free", "outside", "unexplained"})
    printf(" %11s", name);
  printf(" %13s %11s %9s\n", "allocations/s", "purged/s", "refill");
  // Every n-th entry, counted from the newest.
  size_t count = history.entries.size();
  size_t step = (count + kMaxRows - 1) / kMaxRows;
  const HistoryFigures* before = nullptr;
  for (size_t i = (count - 1) % step; i < count; i += step) {
    print_row(history.entries[i], before, end);
    before = &history.entries[i];
  }
  if (!history.peak) return;
  printf("\nMost resident %27s, %.0f s before the last figures\n", size_text(history.peak->resident).c_str(),
         seconds_between(history.peak->realtime, end));
  auto print_part = [&](const char* name, double bytes) { printf("  %-24s %14s\n", name, size_text(bytes).c_str()); };
  print_part("live", history.peak->live);
  print_part("retained", history.peak->retained);
  print_part("thread_cache", history.peak->thread_cache);
  print_part("slab_free", history.peak->slab_free);
  print_part("outside", history.peak->outside);
  print_part("unexplained", history.peak->unexplained);
}

}  // namespace hakmem::cli
