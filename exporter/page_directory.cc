#include "exporter/page_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "telemetry/system.h"

namespace hakmem::exporter {
namespace {

using metrics::PageProblem;
using telemetry::Identity;

constexpr size_t kMaxPages = 4096;
constexpr size_t kMaxEndedNames = 256;

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

// Whether a page may speak for a process: in a folder that all may write to,
// another user could have made it. The process may have been root when it made
// its own. One that is gone, or of another namespace, cannot be asked.
bool is_its_own(const struct stat& page, const Identity& identity) {
  if ((page.st_mode & (S_IWGRP | S_IWOTH)) != 0) return false;
  if (page.st_uid == 0 || identity.pid_namespace != telemetry::own_pid_namespace()) return true;
  char status[1024];
  std::string path = "/proc/" + std::to_string(identity.pid) + "/status";
  if (telemetry::read_small_file(path.c_str(), status, sizeof status) <= 0) return true;
  const char* field = strstr(status, "\nUid:");
  if (field == nullptr) return true;
  field += strlen("\nUid:");
  for (int kind = 0; kind < 4 && *field == '\t'; ++kind) {  // real, effective, saved, of files
    ++field;
    if (telemetry::parse_decimal(&field) == page.st_uid) return true;
  }
  return false;
}

}  // namespace

Page::~Page() {
  if (fd >= 0) close(fd);
}

PageDirectory::PageDirectory(std::string path, Filter filter)
    : path_(std::move(path)), filter_(std::move(filter)), own_namespace_(telemetry::own_pid_namespace()) {}

void PageDirectory::refresh() {
  for (auto& [name, page] : pages_) page.seen = false;
  std::map<std::string, ino_t> left_out_before;
  left_out_before.swap(left_out_);  // files that are gone are forgotten
  if (Directory directory{opendir(path_.c_str())}) {
    while (const dirent* entry = readdir(directory.get()))
      if (std::string_view(entry->d_name).starts_with(telemetry::kPagePrefix))
        visit_file(dirfd(directory.get()), entry->d_name, left_out_before);
  }
  for (auto entry = pages_.begin(); entry != pages_.end();) {
    auto& [name, page] = *entry;
    // Asked before the page is read: what is read then is final.
    Identity identity{};
    bool gone = parse_name(name, &identity) && is_gone(identity);
    bool keep = read(page, name) && page.seen && !gone;
    if (!keep) {
      if (page.good) fold(page);
      if (page.seen && gone && (!removes_ || unlink((path_ + "/" + name).c_str()) != 0)) left_out_[name] = page.inode;
    }
    entry = keep ? std::next(entry) : pages_.erase(entry);
  }
}

void PageDirectory::visit_file(int directory, const std::string& name,
                               const std::map<std::string, ino_t>& left_out_before) {
  struct stat status {};
  if (fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (auto left = left_out_before.find(name); left != left_out_before.end() && left->second == status.st_ino) {
    left_out_.insert(*left);
    return;
  }
  if (auto known = pages_.find(name); known != pages_.end()) {
    if (known->second.inode == status.st_ino) {
      known->second.seen = true;
      return;
    }
    // Another program in the same process: it called exec.
    if (read(known->second, name) && known->second.good) fold(known->second);
    pages_.erase(known);
  }
  Identity identity{};
  if (!parse_name(name, &identity) || !filter_(identity)) {
    left_out_[name] = status.st_ino;
    return;
  }
  if (pages_.size() >= kMaxPages) return;
  int fd = telemetry::open_page(path_ + "/" + name);
  if (fd < 0) {
    ++skipped_[static_cast<size_t>(PageProblem::Unreadable)];
    return;
  }
  if (fstat(fd, &status) != 0 || !is_its_own(status, identity)) {
    ++skipped_[static_cast<size_t>(PageProblem::ForeignOwner)];
    close(fd);
    return;
  }
  Page& page = pages_[name];
  page.fd = fd;
  page.inode = status.st_ino;
  page.seen = true;
}

bool PageDirectory::read(Page& page, const std::string& name) {
  telemetry::PageVerdict verdict = telemetry::read_snapshot(page.fd, &page.snapshot);
  if (verdict.state == telemetry::PageState::Unfinished) return true;
  if (verdict.good() && file_name(page.snapshot.identity) != name)
    verdict = {telemetry::PageState::Bad, PageProblem::Damaged};
  if (!verdict.good()) {
    // Once a scrape, for as long as the file is there.
    ++skipped_[static_cast<size_t>(verdict.problem)];
    page.good = false;
    return false;
  }
  page.good = true;
  page.rows.update(page.snapshot);
  return true;
}

void PageDirectory::fold(const Page& page) {
  // Whoever may write to the folder chooses the names.
  bool has_room = ended_.size() < kMaxEndedNames || ended_.contains(page.snapshot.comm);
  auto [entry, is_new] = ended_.try_emplace(has_room ? page.snapshot.comm : "other", telemetry::Snapshot::empty());
  entry->second.add_counters_of(page.snapshot);
}

bool PageDirectory::is_gone(const Identity& identity) const {
  // The pids of another namespace mean nothing here; its pages go with their container.
  if (identity.pid_namespace != own_namespace_) return false;
  telemetry::ProcessStat stat{};
  return !telemetry::read_process_stat(identity.pid, &stat) || stat.start_time != identity.start_time || stat.is_zombie;
}

std::string find_page(const std::string& path, uint32_t pid) {
  telemetry::ProcessStat stat{};
  if (!telemetry::read_process_stat(pid, &stat)) return "";
  Identity identity{};
  identity.pid = pid;
  identity.start_time = stat.start_time;
  identity.pid_namespace = telemetry::own_pid_namespace();
  std::string file = path + "/" + file_name(identity);
  struct stat status {};
  return lstat(file.c_str(), &status) == 0 && is_its_own(status, identity) ? file : "";
}

}  // namespace hakmem::exporter
