// The reader's side of the stats page: a consistent copy of everything in it.
// For the exporter module, the host exporter and the command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "telemetry/stats_page.h"

namespace hakmem::telemetry {

enum class PageState : uint8_t {
  Good,
  Unfinished,  // being made just now: no problem, but nothing to show yet
  Unread,      // the kernel could not read it now
  Bad,
};

struct PageVerdict {
  PageState state;
  metrics::PageProblem problem;  // where it is Unread or Bad

  bool good() const { return state == PageState::Good; }
};

class Snapshot {
 public:
  Identity identity{};
  std::string comm;
  std::string version;
  std::string build;
  bool serving = false;
  uint32_t class_bytes[metrics::kSizeClassCount]{};

  // Sum over the shards, or the published figure, of a counter's slot.
  uint64_t counter(metrics::Metric metric, uint32_t index) const;
  // A published gauge; NaN when it was not measured.
  double gauge(metrics::Metric metric, uint32_t index) const;

  // Whether all figures are those of another snapshot.
  bool has_figures_of(const Snapshot& other) const {
    return counters_ == other.counters_ && published_ == other.published_;
  }

  // Makes a snapshot of no process: counters 0, gauges not measured.
  static Snapshot empty();
  // Adds the counters of another snapshot to these.
  void add_counters_of(const Snapshot& other);
  // Takes those of another snapshot off, which had been added before.
  void subtract_counters_of(const Snapshot& other);
  // Adds the published gauges that can be summed: not ratios, not moments.
  void add_gauges_of(const Snapshot& other);

 private:
  template <class Source>
  friend PageVerdict read_from(Source& source, Snapshot* snapshot);
  template <class Combine>
  void combine_counters(const Snapshot& other, Combine combine);

  std::vector<uint64_t> counters_;
  std::vector<uint64_t> published_;
};

// Reads a page's file by pread: whatever its owner does to the file meanwhile,
// the worst is a bad page. The two numbers of counters that are
// subtracted from each other, collected from refilled objects, are read in the
// order that keeps the difference from being negative.
PageVerdict read_snapshot(int fd, Snapshot* snapshot);

// The same from a page in this process's memory.
PageVerdict read_snapshot(const void* page, size_t bytes, Snapshot* snapshot);

// The history of a page that read_snapshot found good: entries oldest first,
// without those that were being written, and the peak.
struct PageHistory {
  std::vector<HistoryFigures> entries;
  std::optional<HistoryFigures> peak;
};
PageHistory read_history(int fd);

// Opens a page's file for read_snapshot; -1 when it is not a regular file or cannot be opened.
int open_page(const std::string& path);

}  // namespace hakmem::telemetry
