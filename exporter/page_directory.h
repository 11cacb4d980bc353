// The stats pages of a directory: which processes live, and what the ended ones
// counted.
#pragma once

#include <sys/types.h>

#include <array>
#include <functional>
#include <map>
#include <string>

#include "exporter/size_class_rows.h"
#include "telemetry/snapshot.h"

namespace hakmem::exporter {

// A page that is held open, so that its last figures can be read after its
// process removed it.
struct Page {
  Page() = default;
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page();

  int fd = -1;
  ino_t inode = 0;
  bool seen = false;  // in the current walk of the directory
  bool good = false;  // was ever read; `snapshot` is its newest state
  telemetry::Snapshot snapshot;
  SizeClassRows rows;
};

class PageDirectory {
 public:
  // Which pages to show; asked once for each page, with what its name says:
  // pid, start time and namespace.
  using Filter = std::function<bool(const telemetry::Identity&)>;

  explicit PageDirectory(
      std::string path, Filter filter = [](const telemetry::Identity&) { return true; });

  // For a reader that only looks: stale files are left where they are.
  void keep_stale_files() { removes_ = false; }

  // Walks the directory and reads every page anew. Pages whose process is gone
  // are added to the totals by the program's name, and removed.
  void refresh();

  // By file name; only pages of living processes that were read without a problem.
  const std::map<std::string, Page>& pages() const { return pages_; }
  // Counters of ended processes, by the program's name.
  const std::map<std::string, telemetry::Snapshot>& ended() const { return ended_; }
  uint64_t skipped(metrics::PageProblem problem) const { return skipped_[static_cast<size_t>(problem)]; }

 private:
  void visit_file(int directory, const std::string& name, const std::map<std::string, ino_t>& left_out_before);
  // False when the page is to be forgotten.
  bool read(Page& page, const std::string& name);
  void fold(const Page& page);
  bool is_gone(const telemetry::Identity& identity) const;

  std::string path_;
  Filter filter_;
  uint64_t own_namespace_;
  bool removes_ = true;
  std::map<std::string, Page> pages_;
  // Files that are not shown, by inode: of no interest, or counted but not ours to remove.
  std::map<std::string, ino_t> left_out_;
  std::map<std::string, telemetry::Snapshot> ended_;
  std::array<uint64_t, metrics::kCountOf<metrics::PageProblem>> skipped_{};
};

// Path of the page of a process in a directory; "" when there is none, or when
// another user made it.
std::string find_page(const std::string& directory, uint32_t pid);

}  // namespace hakmem::exporter
