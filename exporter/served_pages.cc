#include "exporter/served_pages.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

namespace hakmem::exporter {

using metrics::Metric;

namespace {

Labels labels_of(std::string pid, const Group& group) {
  Labels labels{{"pid", std::move(pid)}, {"comm", group.comm}};
  if (!group.home.container.empty()) labels.push_back({"container", group.home.container});
  if (!group.home.unit.empty()) labels.push_back({"unit", group.home.unit});
  return labels;
}

}  // namespace

void add_pages(const PageDirectory& directory, uint32_t full_pid, Exposition* exposition) {
  // Containers may share a folder: the name of a page is nobody else's.
  std::map<std::pair<uint32_t, Group>, uint32_t> same;
  for (const auto& [name, page] : directory.pages())
    if (page.good) ++same[{page.snapshot.identity.pid, page.group}];
  const SizeClassRows no_rows;
  for (const auto& [name, page] : directory.pages()) {
    const telemetry::Snapshot& snapshot = page.snapshot;
    bool full = page.has_pid(full_pid);
    if (!page.good || (!full && !page.by_pid)) continue;
    std::string pid = std::to_string(snapshot.identity.pid);
    if (same[{snapshot.identity.pid, page.group}] > 1) pid = name.substr(strlen(telemetry::kPagePrefix));
    Labels labels = labels_of(std::move(pid), page.group);
    if (full || !page.counted_in_group) {
      exposition->add(snapshot, page.rows, labels, full ? Detail::Full : Detail::Summary);
    } else {
      telemetry::Snapshot since = snapshot;
      since.subtract_counters_of(*page.counted_in_group);
      exposition->add(since, no_rows, labels, Detail::Summary);
    }
  }
  for (const auto& [group, sums] : directory.groups(full_pid))
    exposition->add(sums, no_rows, labels_of("other", group), Detail::Summary);
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
