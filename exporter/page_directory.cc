#include "exporter/page_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "telemetry/system.h"

namespace hakmem::exporter {
namespace {

using metrics::PageProblem;
using telemetry::Identity;

constexpr size_t kMaxPages = 4096;
constexpr size_t kMaxGroups = 256;

struct DirectoryCloser {
  void operator()(DIR* directory) const { closedir(directory); }
};
using Directory = std::unique_ptr<DIR, DirectoryCloser>;

std::string file_name(const Identity& identity) {
  return telemetry::kPagePrefix + std::to_string(identity.pid_namespace) + "." + std::to_string(identity.pid) + "." +
         std::to_string(identity.start_time);
}

// What a file's name says of its process; false for a name no page has.
bool parse_name(const std::string& name, Identity* identity) {
  const char* text = name.c_str() + strlen(telemetry::kPagePrefix);
  identity->pid_namespace = telemetry::parse_decimal(&text);
  if (*text++ != '.') return false;
  identity->pid = static_cast<uint32_t>(telemetry::parse_decimal(&text));
  if (*text++ != '.') return false;
  identity->start_time = telemetry::parse_decimal(&text);
  return *text == '\0' && file_name(*identity) == name;
}

// Whether a page may speak for a process, by its pid here: in a folder that all may write to,
// another user could have made it. The process may have been root when it made
// its own. One that is gone, or is not known here (0), cannot be asked.
bool is_its_own(const struct stat& page, uint32_t pid_here) {
  if ((page.st_mode & (S_IWGRP | S_IWOTH)) != 0) return false;
  if (page.st_uid == 0 || pid_here == 0) return true;
  char status[1024];
  std::string path = "/proc/" + std::to_string(pid_here) + "/status";
  errno = 0;
  if (telemetry::read_small_file(path.c_str(), status, sizeof status) <= 0) return !lacks_means(errno);
  const char* field = strstr(status, "\nUid:");
  if (field == nullptr) return true;
  field += strlen("\nUid:");
  for (int kind = 0; kind < 4 && *field == '\t'; ++kind) {  // real, effective, saved, of files
    ++field;
    if (telemetry::parse_decimal(&field) == page.st_uid) return true;
  }
  return false;
}

double seconds_by(clockid_t clock) { return static_cast<double>(telemetry::clock_nanoseconds(clock)) / 1e9; }

// For how many seconds nothing has changed in a page that is read for the first time: since it was
// made, or its figures were measured last.
double silence_of(const Page& page) {
  double now = seconds_by(CLOCK_REALTIME);
  struct stat status {};
  double made = fstat(page.fd, &status) == 0 ? static_cast<double>(status.st_mtime) : now;
  double measured = page.snapshot.gauge(metrics::Metric::kPublishTime, 0);
  // The page may say anything, and nothing was measured in the future.
  return std::max(0.0, now - (measured > made && measured <= now ? measured : made));
}

}  // namespace

Page::~Page() {
  if (fd >= 0) close(fd);
}

PageDirectory::PageDirectory(std::string path, Filter filter) : path_(std::move(path)), filter_(std::move(filter)) {}

void PageDirectory::refresh() {
  Directory directory{opendir(path_.c_str())};
  bool is_known = directory || errno == ENOENT || errno == ENOTDIR;
  for (auto& [name, page] : pages_) page.seen = !is_known;
  // What the walk did not reach may be there.
  if (directory && !visit_all(directory.get()))
    for (auto& [name, page] : pages_) page.seen = true;
  Processes processes;
  for (auto entry = pages_.begin(); entry != pages_.end();)
    entry = stays(entry->second, entry->first, processes) ? std::next(entry) : pages_.erase(entry);
  for (auto entry = replaced_.begin(); entry != replaced_.end();)
    entry = stays(entry->second, entry->first, processes) ? std::next(entry) : replaced_.erase(entry);
}

bool PageDirectory::stays(Page& page, const std::string& name, Processes& processes) {
  Identity identity{};
  parse_name(name, &identity);
  // After the walk: all processes that have a page are there when /proc is read.
  uint32_t pid_here = page.pid_here ? *page.pid_here : processes.pid_of(identity);
  if (pid_here == 0 && !page.pid_here && processes.lacked_means()) return true;  // it may be there
  if (!page.pid_here && !find_process(page, pid_here)) {
    skip(PageProblem::ForeignOwner, name, page.inode);
    return false;
  }
  // Asked before the page is read: what is read then is final.
  bool gone = page.replaced || has_ended(identity, *page.pid_here);
  Outcome outcome = read(page, name);
  gone = gone || is_silent(page);
  if (outcome == Outcome::Later && (!gone || ++page.tries < kTriesAfterEnd)) return true;
  bool keep = outcome == Outcome::Read && page.seen && !gone;
  if (!keep) leave(page, name, gone);
  return keep;
}

bool PageDirectory::visit_all(DIR* directory) {
  std::map<std::string, ino_t> left_out_before;
  left_out_before.swap(left_out_);  // files that are gone are forgotten
  bool is_whole;
  try {
    const dirent* entry;
    while (errno = 0, (entry = readdir(directory)) != nullptr)
      if (std::string_view(entry->d_name).starts_with(telemetry::kPagePrefix))
        visit_file(dirfd(directory), entry->d_name, &left_out_before);
    is_whole = errno == 0;
  } catch (...) {
    // Those that were not visited: a page that was counted must not be counted again.
    left_out_.merge(left_out_before);
    throw;
  }
  if (!is_whole) left_out_.merge(left_out_before);
  return is_whole;
}

bool PageDirectory::find_process(Page& page, uint32_t pid_here) {
  struct stat status {};
  if (fstat(page.fd, &status) != 0 || !is_its_own(status, pid_here)) return false;
  page.pid_here = pid_here;
  page.last_change = seconds_by(CLOCK_BOOTTIME);
  return true;
}

bool PageDirectory::is_silent(const Page& page) {
  return page.pid_here == 0 && page.last_change + kSilentSeconds < seconds_by(CLOCK_BOOTTIME);
}

void PageDirectory::leave(const Page& page, const std::string& name, bool gone) {
  // What was counted is not counted again, should it become readable.
  if (page.seen && (gone || page.good)) left_out_[name] = page.inode;
  if (page.seen && gone && removes_) remove_later(name, page.good);
  // Last: should memory run out on the way, the next scrape counts it.
  if (page.good) fold(page, &ended_.at(page.group));
}

void PageDirectory::visit_file(int directory, const std::string& name, std::map<std::string, ino_t>* left_out_before) {
  struct stat status {};
  if (fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return;
    // It is taken for what it was.
    if (auto left = left_out_before->find(name); left != left_out_before->end())
      left_out_.insert(left_out_before->extract(left));
    if (auto known = pages_.find(name); known != pages_.end()) known->second.seen = true;
    return;
  }
  if (auto left = left_out_before->find(name); left != left_out_before->end() && left->second == status.st_ino) {
    left_out_.insert(left_out_before->extract(left));
    return;
  }
  if (auto known = pages_.find(name); known != pages_.end()) {
    if (known->second.inode == status.st_ino) {
      known->second.seen = true;
      return;
    }
    // Another program in the same process: it called exec.
    known->second.replaced = true;
    known->second.seen = false;
    replaced_.insert(pages_.extract(known));
  }
  Identity identity{};
  errno = 0;
  if (!parse_name(name, &identity) || !filter_(identity)) {
    if (!lacks_means(errno)) left_out_[name] = status.st_ino;
    return;
  }
  if (pages_.size() >= kMaxPages) return;
  std::string path = path_ + "/" + name;
  auto entry = pages_.try_emplace(name).first;
  Page& page = entry->second;
  page.fd = telemetry::open_page(path);
  if (page.fd < 0 || fstat(page.fd, &status) != 0) {
    pages_.erase(entry);
    skip(PageProblem::Unreadable, name, status.st_ino);
    return;
  }
  page.inode = status.st_ino;
  page.seen = true;
}

PageDirectory::Outcome PageDirectory::judge(const telemetry::PageVerdict& verdict, const Page& page,
                                            const std::string& name) {
  switch (verdict.state) {
    case telemetry::PageState::Unfinished: return Outcome::Read;
    case telemetry::PageState::Unread:
      if (!page.good) skip(verdict.problem, name, page.inode);
      return Outcome::Later;
    case telemetry::PageState::Good:
      if (file_name(scratch_.identity) == name) return Outcome::Read;
      skip(PageProblem::Damaged, name, page.inode);
      return Outcome::Bad;
    case telemetry::PageState::Bad: break;
  }
  skip(verdict.problem, name, page.inode);
  return Outcome::Bad;
}

PageDirectory::Outcome PageDirectory::read(Page& page, const std::string& name) {
  telemetry::PageVerdict verdict = telemetry::read_snapshot(page.fd, &scratch_);
  Outcome outcome = judge(verdict, page, name);
  if (!verdict.good() || outcome != Outcome::Read) return outcome;
  std::swap(page.snapshot, scratch_);
  if (page.pid_here == 0) note_change(page);
  if (!page.good && !first_read(page)) return Outcome::Later;
  if (!page.by_pid && age_seconds(page.snapshot.identity) >= min_age_) show_by_pid(page);
  page.rows.update(page.snapshot);
  return Outcome::Read;
}

// `scratch_` is what was read last.
void PageDirectory::note_change(Page& page) {
  double now = seconds_by(CLOCK_BOOTTIME);
  if (!page.good)
    page.last_change = now - silence_of(page);
  else if (!page.snapshot.has_figures_of(scratch_))
    page.last_change = now;
}

bool PageDirectory::first_read(Page& page) {
  std::optional<Home> home = home_of(page.pid_here.value_or(0));
  if (!home) return false;
  page.group = {page.snapshot.comm, *home};
  // Whoever may write to the folder chooses the names.
  if (!ended_.contains(page.group) && ended_.size() >= kMaxGroups) page.group = {"other", {}};
  ended_.try_emplace(page.group, telemetry::Snapshot::empty());
  page.by_pid = age_seconds(page.snapshot.identity) >= min_age_;
  // Last: should memory run out on the way, the next scrape begins anew.
  page.good = true;
  return true;
}

void PageDirectory::show_by_pid(Page& page) {
  auto counted = std::make_unique<telemetry::Snapshot>(telemetry::Snapshot::empty());
  counted->add_counters_of(page.snapshot);
  page.by_pid = true;
  page.counted_in_group = std::move(counted);
  ended_.at(page.group).add_counters_of(page.snapshot);
}

void PageDirectory::fold(const Page& page, telemetry::Snapshot* totals) {
  totals->add_counters_of(page.snapshot);
  if (page.counted_in_group) totals->subtract_counters_of(*page.counted_in_group);
}

std::map<Group, telemetry::Snapshot> PageDirectory::groups(uint32_t shown_pid) const {
  std::map<Group, telemetry::Snapshot> sums = ended_;
  for (const auto& [name, page] : pages_) {
    if (!page.good || page.by_pid || page.has_pid(shown_pid)) continue;
    telemetry::Snapshot& sum = sums.at(page.group);
    sum.add_counters_of(page.snapshot);
    sum.add_gauges_of(page.snapshot);
  }
  for (const auto& [name, page] : replaced_)
    if (page.good) fold(page, &sums.at(page.group));
  return sums;
}

void PageDirectory::skip(PageProblem problem, const std::string& name, ino_t inode) {
  // Counted once a scrape, for as long as the file is there; told once.
  ++skipped_[static_cast<size_t>(problem)];
  auto told = complained_.find(name);
  if (!complain_ || (told != complained_.end() && told->second == inode)) return;
  if (complained_.size() >= kMaxPages) complained_.clear();
  complained_[name] = inode;
  complain_(path_ + "/" + name + " is left out: " + metrics::kPageProblemNames[static_cast<size_t>(problem)]);
}

void PageDirectory::remove_later(const std::string& name, bool is_of_use) {
  if (is_of_use) kept_.push_back(name);
  if (is_of_use && kept_.size() <= kKeptPages) return;
  const std::string& oldest = is_of_use ? kept_.front() : name;
  if (unlink((path_ + "/" + oldest).c_str()) == 0) left_out_.erase(oldest);
  if (is_of_use) kept_.pop_front();
}

std::string find_page(const std::string& path, uint32_t pid_here) {
  std::optional<Identity> identity = identity_of(pid_here);
  if (!identity) return "";
  std::string file = path + "/" + file_name(*identity);
  struct stat status {};
  return lstat(file.c_str(), &status) == 0 && is_its_own(status, pid_here) ? file : "";
}

std::string find_page_of_ended(const std::string& path, uint32_t pid) {
  std::string newest;
  uint64_t start_time = 0;
  Directory directory{opendir(path.c_str())};
  while (const dirent* entry = directory ? readdir(directory.get()) : nullptr) {
    Identity identity{};
    bool is_page =
        std::string_view(entry->d_name).starts_with(telemetry::kPagePrefix) && parse_name(entry->d_name, &identity);
    if (!is_page || identity.pid != pid || !is_of_this_namespace(identity) || !has_ended(identity) ||
        identity.start_time < start_time)
      continue;
    start_time = identity.start_time;
    newest = path + "/" + entry->d_name;
  }
  return newest;
}

}  // namespace hakmem::exporter
