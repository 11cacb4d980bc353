#include "telemetry/page_sweep.h"

#include <errno.h>
#include <signal.h>

#include <cstring>

#include "telemetry/stats_page.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constexpr uint64_t kRetention = 600;
constexpr uint64_t kManyPages = 512;
constexpr int kMaxRemoved = 1024;

// Calls visit(name) for every file whose name starts like a page's, until it returns false.
template <class Visit>
void for_each_page(int directory, Visit visit) {
  alignas(8) char entries[2048];
  lseek(directory, 0, SEEK_SET);
  for (;;) {
    long length = syscall(SYS_getdents64, directory, entries, sizeof entries);
    if (length <= 0) return;
    for (long offset = 0; offset < length;) {
      const char* entry = entries + offset;
      uint16_t entry_bytes;
      memcpy(&entry_bytes, entry + 16, sizeof entry_bytes);
      const char* name = entry + 19;  // struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name
      if (strncmp(name, kPagePrefix, strlen(kPagePrefix)) == 0 && !visit(name)) return;
      offset += entry_bytes;
    }
  }
}

// Seconds since the epoch when a page was made or its figures last measured.
uint64_t last_sign_of_life(int directory, const char* name, const struct stat& status) {
  auto last = static_cast<uint64_t>(status.st_ctime);
  int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return last;
  uint64_t slot = 0;
  constexpr size_t kOffset = kPublishOffset + metrics::kFirstSlot<metrics::Metric::kPublishTime> * sizeof(Slot);
  if (pread(fd, &slot, sizeof slot, kOffset) == static_cast<ssize_t>(sizeof slot)) {
    double published = decode_gauge(slot);
    if (published > static_cast<double>(last) && published < 1e11) last = static_cast<uint64_t>(published);
  }
  close(fd);
  return last;
}

bool is_gone(const char* name, uint64_t own_namespace) {
  const char* text = name + strlen(kPagePrefix);
  if (parse_decimal(&text) != own_namespace || *text != '.') return false;
  ++text;
  auto pid = static_cast<pid_t>(parse_decimal(&text));
  return pid > 0 && kill(pid, 0) != 0 && errno == ESRCH;
}

}  // namespace

PagesHeld pages_held(int directory) {
  PagesHeld held{};
  for_each_page(directory, [&](const char* name) {
    struct stat status;
    if (raw_fstatat(directory, name, &status) == 0) {
      held.bytes += static_cast<uint64_t>(status.st_blocks) * 512;
      ++held.count;
    }
    return true;
  });
  return held;
}

void sweep_pages(int directory, uint64_t own_namespace, uint64_t retention) {
  uint64_t now = clock_nanoseconds(CLOCK_REALTIME) / 1'000'000'000;
  int removed = 0;
  for_each_page(directory, [&](const char* name) {
    struct stat status;
    if (is_gone(name, own_namespace) && raw_fstatat(directory, name, &status) == 0 && S_ISREG(status.st_mode) &&
        (retention == 0 || last_sign_of_life(directory, name, status) + retention < now) &&
        unlinkat(directory, name, 0) == 0)
      ++removed;
    return removed < kMaxRemoved;
  });
}

void sweep_as_needed(int directory, uint64_t own_namespace) {
  uint64_t count = 0;
  for_each_page(directory, [&](const char*) { return ++count <= kManyPages; });
  sweep_pages(directory, own_namespace, count > kManyPages ? 0 : kRetention);
}

}  // namespace hakmem::telemetry
