#include "exporter/served_pages.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

namespace hakmem::exporter {

using metrics::Metric;

void add_pages(const PageDirectory& directory, uint32_t full_pid, Exposition* exposition) {
  std::map<std::pair<uint32_t, std::string>, uint32_t> same;
  for (const auto& [name, page] : directory.pages())
    if (page.good) ++same[{page.snapshot.identity.pid, page.snapshot.comm}];
  for (const auto& [name, page] : directory.pages()) {
    if (!page.good) continue;
    const telemetry::Snapshot& snapshot = page.snapshot;
    std::string pid = std::to_string(snapshot.identity.pid);
    // Containers that share a folder: the name of a page is nobody else's.
    if (same[{snapshot.identity.pid, snapshot.comm}] > 1) pid = name.substr(strlen(telemetry::kPagePrefix));
    Labels labels{{"pid", pid}, {"comm", snapshot.comm}};
    bool full = full_pid != 0 && snapshot.identity.pid == full_pid;
    exposition->add(snapshot, page.rows, labels, full ? Detail::Full : Detail::Summary);
  }
  const SizeClassRows no_rows;
  for (const auto& [comm, totals] : directory.ended())
    exposition->add(totals, no_rows, {{"pid", "ended"}, {"comm", comm}}, Detail::Summary);
}

void add_exporter(const ExporterFigures& figures, const PageDirectory& directory, Exposition* exposition) {
  exposition->add_served(Metric::kScrapes, figures.scrapes);
  exposition->add_served(Metric::kScrapeTime, figures.scrape_seconds);
  exposition->add_served(Metric::kExporterMemory, figures.memory_bytes);
  auto shown = std::count_if(directory.pages().begin(), directory.pages().end(),
                             [](const auto& entry) { return entry.second.good; });
  exposition->add_served(Metric::kExporterPages, static_cast<double>(shown));
  for (uint32_t problem = 0; problem < metrics::kCountOf<metrics::PageProblem>; ++problem)
    exposition->add_served(Metric::kExporterPagesSkipped,
                           static_cast<double>(directory.skipped(static_cast<metrics::PageProblem>(problem))), problem);
}

std::string serialise(const std::vector<prometheus::MetricFamily>& families) {
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace hakmem::exporter
