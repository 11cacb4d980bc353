// The stats pages of a directory: which processes live, which of them are shown
// one by one, and what the others and the ended ones counted.
#pragma once

#include <dirent.h>
#include <sys/types.h>

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "exporter/process_facts.h"
#include "exporter/size_class_rows.h"
#include "telemetry/snapshot.h"

namespace hakmem::exporter {

// Processes that are shown together: those of one program in one place.
struct Group {
  std::string comm;
  Home home;

  bool operator<(const Group& other) const {
    return std::tie(comm, home.container, home.unit) < std::tie(other.comm, other.home.container, other.home.unit);
  }
};

// A page that is held open, so that its last figures can be read after its
// process removed it.
struct Page {
  Page() = default;
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page();

  int fd = -1;
  ino_t inode = 0;
  std::optional<uint32_t> pid_here;  // of its process; 0 when it is of another namespace and not seen
  bool seen = false;                 // in the current walk of the directory
  bool good = false;                 // was ever read; `snapshot` is its newest good state
  bool replaced = false;             // by that of another program in the same process
  uint32_t tries = 0;                // to read it since its process ended
  // Of its figures, or when it was found: where the process is not seen, seconds of CLOCK_BOOTTIME.
  double last_change = 0;
  telemetry::Snapshot snapshot;
  SizeClassRows rows;
  Group group;
  // Whether its process is shown by pid. What it counted before that stays with
  // its group, so that neither's counters fall.
  bool by_pid = false;
  std::unique_ptr<telemetry::Snapshot> counted_in_group;

  // Whether its process has this pid here, or as itself where it is not seen; none has 0.
  bool has_pid(uint32_t pid) const {
    return pid != 0 && pid == (pid_here.value_or(0) != 0 ? *pid_here : snapshot.identity.pid);
  }
};

// A process that cannot be looked for, of another container or without /proc, is taken for
// ended when nothing in its page has changed for so long.
inline constexpr double kSilentSeconds = 24 * 3600;

// How often it is tried to read what a process left before its end, or before exec, where the kernel cannot.
inline constexpr uint32_t kTriesAfterEnd = 8;

// Of the pages whose process was killed the newest so many are kept.
inline constexpr size_t kKeptPages = 16;

class PageDirectory {
 public:
  // Which pages to show; asked once for each page, with what its name says:
  // pid, start time and namespace.
  using Filter = std::function<bool(const telemetry::Identity&)>;
  // Takes one line about a page that is left out.
  using Complain = std::function<void(const std::string& line)>;

  explicit PageDirectory(
      std::string path, Filter filter = [](const telemetry::Identity&) { return true; });

  // For a reader that only looks: stale files are left where they are.
  void keep_stale_files() { removes_ = false; }
  // Processes younger than so many seconds are not shown by pid but with their
  // group, so that those that come and go do not leave series behind.
  void group_younger_than(double seconds) { min_age_ = seconds; }
  // A line for each file that is left out, when it is first.
  void complain_to(Complain complain) { complain_ = std::move(complain); }

  // Walks the directory and reads every page anew. Pages whose process is gone, or was silent for too long,
  // are added to the totals of their group, and removed, but for the newest
  // kKeptPages, which `hakmem report` can still read. Where memory or descriptors have run out, or the kernel
  // cannot read, nothing is counted twice or lost: it throws std::bad_alloc, and the next one goes on; or what
  // was read last stands.
  void refresh();

  // By file name; living processes.
  const std::map<std::string, Page>& pages() const { return pages_; }
  // The sums of each group over what is not shown by pid: counters of ended
  // processes, counters and gauges of the young ones without `shown_pid`.
  std::map<Group, telemetry::Snapshot> groups(uint32_t shown_pid) const;
  uint64_t skipped(metrics::PageProblem problem) const { return skipped_[static_cast<size_t>(problem)]; }

 private:
  // Later: the kernel could not read now; what was read last stands.
  enum class Outcome : uint8_t { Read, Later, Bad };

  // False when it did not get to the end.
  bool visit_all(DIR* directory);
  void visit_file(int directory, const std::string& name, std::map<std::string, ino_t>* left_out_before);
  // Reads it, and takes leave of one that has ended, or was not seen; false then.
  bool stays(Page& page, const std::string& name, Processes& processes);
  // False when the page may not speak for the process.
  static bool find_process(Page& page, uint32_t pid_here);
  Outcome read(Page& page, const std::string& name);
  Outcome judge(const telemetry::PageVerdict& verdict, const Page& page, const std::string& name);
  void note_change(Page& page);
  // False where it is to be tried again.
  bool first_read(Page& page);
  void show_by_pid(Page& page);
  static bool is_silent(const Page& page);
  void leave(const Page& page, const std::string& name, bool gone);
  static void fold(const Page& page, telemetry::Snapshot* totals);
  void skip(metrics::PageProblem problem, const std::string& name, ino_t inode);
  // Now, or where it is of use to a report, when others have come after it.
  void remove_later(const std::string& name, bool is_of_use);

  std::string path_;
  Filter filter_;
  Complain complain_;
  double min_age_ = 0;
  bool removes_ = true;
  std::map<std::string, Page> pages_;
  std::multimap<std::string, Page> replaced_;  // until their last figures are read
  // Files that are not shown, by inode: of no interest, or counted but not removed.
  std::map<std::string, ino_t> left_out_;
  std::map<std::string, ino_t> complained_;  // files that a line was written about
  std::deque<std::string> kept_;             // pages of ended processes, oldest first
  std::map<Group, telemetry::Snapshot> ended_;
  telemetry::Snapshot scratch_;
  std::array<uint64_t, metrics::kCountOf<metrics::PageProblem>> skipped_{};
};

// Path of the page of a process in a directory, by its pid here, whatever pid a container
// of it has for it; "" when there is none, or when another user made it.
std::string find_page(const std::string& directory, uint32_t pid_here);

// The same for a process that has ended without removing its page; the newest
// one, where the pid was used again.
std::string find_page_of_ended(const std::string& directory, uint32_t pid);

}  // namespace hakmem::exporter
