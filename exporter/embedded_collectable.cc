#include "exporter/embedded_collectable.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "exporter/lifetimes.h"
#include "exporter/served_pages.h"
#include "telemetry/system.h"

namespace hakmem::exporter {
namespace {

constexpr int kMaxGenerations = 64;

// Whether a process of this namespace descends from this one.
bool descends_from_us(const telemetry::Identity& identity) {
  auto own = static_cast<uint32_t>(getpid());
  telemetry::ProcessStat stat{};
  if (identity.pid == own || identity.pid_namespace != telemetry::own_pid_namespace()) return false;
  if (!telemetry::read_process_stat(identity.pid, &stat) || stat.start_time != identity.start_time) return false;
  for (int generation = 0; generation < kMaxGenerations && stat.parent > 1; ++generation) {
    if (stat.parent == own) return true;
    if (!telemetry::read_process_stat(stat.parent, &stat)) return false;
  }
  return false;
}

}  // namespace

// Used by the one thread that serves.
struct EmbeddedCollectable::State {
  explicit State(const telemetry::ModuleHost& host) : lifetimes(host), directory(host.pages, descends_from_us) {}

  SizeClassRows rows;
  Lifetimes lifetimes;
  PageDirectory directory;
  ExporterFigures figures;
};

EmbeddedCollectable::EmbeddedCollectable(const telemetry::ModuleHost& host, LeakSuspects& leaks)
    : host_(host), leaks_(leaks), state_(new State(host)) {}

std::vector<prometheus::MetricFamily> EmbeddedCollectable::collect(uint32_t full_pid) const {
  size_t bytes = 0;
  const void* page = host_.refresh(&bytes);
  telemetry::Snapshot snapshot;
  if (page == nullptr || !telemetry::read_snapshot(page, bytes, &snapshot).good()) return {};
  state_->rows.update(snapshot);
  state_->directory.refresh();

  Exposition exposition;
  exposition.add(snapshot, state_->rows, {}, Detail::Full);
  add_pages(state_->directory, full_pid, &exposition);
  state_->lifetimes.add_to(snapshot, &exposition);
  leaks_.add_to(&exposition);
  // As the kernel counts it: its mappings, and what the last scrape left.
  double resident = snapshot.gauge(metrics::Metric::kResidentBytes, static_cast<uint32_t>(metrics::Part::Telemetry));
  state_->figures.memory_bytes = std::isnan(resident) ? 0 : resident;
  add_exporter(state_->figures, state_->directory, &exposition);
  return exposition.take();
}

void EmbeddedCollectable::scrape_took(double seconds) const {
  state_->figures.scrapes += 1;
  state_->figures.scrape_seconds += seconds;
}

}  // namespace hakmem::exporter
