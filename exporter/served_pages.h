// What both endpoints have in common: pages of other processes and the figures
// of the exporter itself, put into an exposition.
#pragma once

#include <string>
#include <vector>

#include "exporter/exposition.h"
#include "exporter/page_directory.h"

namespace hakmem::exporter {

// Adds every page with the labels pid (the name of the page in its place where two
// processes share it and all else), comm, and container or unit where that
// is known, as a summary or, for pid `full_pid`, in full. What the directory
// does not show by pid, the young and the ended, is summed as pid="other".
void add_pages(const PageDirectory& directory, uint32_t full_pid, Exposition* exposition);

struct ExporterFigures {
  double scrapes = 0;
  double scrape_seconds = 0;
  double memory_bytes = 0;
};

void add_exporter(const ExporterFigures& figures, const PageDirectory& directory, Exposition* exposition);

// The families in the text format of Prometheus.
std::string serialise(const std::vector<prometheus::MetricFamily>& families);

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace hakmem::exporter
