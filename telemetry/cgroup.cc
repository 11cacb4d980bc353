#include "telemetry/cgroup.h"

#include <algorithm>
#include <cstring>

#include "telemetry/line_reader.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constexpr size_t kMaxPath = 512;
constexpr uint64_t kNoLimit = uint64_t{1} << 62;  // version 1 says so by a number near 2^63

// Whether a list with commas has this word.
bool has_word(const char* list, const char* word) {
  size_t length = strlen(word);
  for (; list != nullptr; list = strchr(list, ',')) {
    if (*list == ',') ++list;
    if (strncmp(list, word, length) == 0 && (list[length] == ',' || list[length] == '\0')) return true;
  }
  return false;
}

// Cuts a line after its next field and moves *line behind it; "" at the end.
char* next_field(char** line, char separator) {
  char* field = *line;
  char* end = strchr(field, separator);
  *line = end == nullptr ? field + strlen(field) : end + 1;
  if (end != nullptr) *end = '\0';
  return field;
}

void copy(char (&target)[kMaxPath], const char* text) { TextBuilder(target, sizeof target).text(text); }

struct Paths {
  char version1[kMaxPath];  // of the memory controller; "" when it has no hierarchy of its own
  char version2[kMaxPath];
};

// Lines are HIERARCHY:CONTROLLERS:PATH; version 2 is hierarchy 0 without controllers.
void read_paths(const char* file, Paths* paths) {
  LineReader lines(file);
  while (char* line = lines.is_open() ? lines.next() : nullptr) {
    const char* hierarchy = next_field(&line, ':');
    const char* controllers = next_field(&line, ':');
    if (has_word(controllers, "memory")) copy(paths->version1, line);
    if (strcmp(hierarchy, "0") == 0) copy(paths->version2, line);
  }
}

struct Mount {
  const char* root;
  const char* point;
  bool is_wanted;
};

// Lines are ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS.
Mount parse_mount(char* line, bool version1) {
  for (int field = 0; field < 3; ++field) next_field(&line, ' ');
  const char* root = next_field(&line, ' ');
  const char* point = next_field(&line, ' ');
  while (*line != '\0' && strcmp(next_field(&line, ' '), "-") != 0) {
  }
  const char* type = next_field(&line, ' ');
  next_field(&line, ' ');
  bool is_wanted = version1 ? strcmp(type, "cgroup") == 0 && has_word(line, "memory") : strcmp(type, "cgroup2") == 0;
  return {root, point, is_wanted};
}

// What of a group's path lies below the root of a mount; null when it is not there.
const char* below(const char* root, const char* path) {
  if (strcmp(root, "/") == 0) return strcmp(path, "/") == 0 ? "" : path;
  size_t length = strlen(root);
  if (strncmp(path, root, length) != 0 || (path[length] != '/' && path[length] != '\0')) return nullptr;
  return path + length;
}

}  // namespace

void CgroupReader::find(const char* cgroups, const char* mounts) {
  length_ = 0;
  Paths paths{};
  read_paths(cgroups, &paths);
  is_version1_ = paths.version1[0] != '\0';
  const char* path = is_version1_ ? paths.version1 : paths.version2;
  // Above the root of a namespace, where nothing can be read.
  if (*path == '\0' || strncmp(path, "/..", 3) == 0) return;
  LineReader lines(mounts);
  while (char* line = lines.is_open() ? lines.next() : nullptr) {
    Mount mount = parse_mount(line, is_version1_);
    if (!mount.is_wanted) continue;
    const char* rest = below(mount.root, path);
    root_ = strlen(mount.point);
    if (rest == nullptr || root_ + strlen(rest) + 64 > sizeof folder_) continue;
    TextBuilder(folder_, sizeof folder_).text(mount.point).text(rest);
    length_ = strlen(folder_);
    return;
  }
}

// Opens a file of the group whose folder is the first `length` characters of folder_.
const char* CgroupReader::file(size_t length, const char* version1, const char* version2) {
  static constinit char path[sizeof folder_ + 64]{};
  TextBuilder(path, length + 1).text(folder_);
  TextBuilder(path + length, sizeof path - length).text(is_version1_ ? version1 : version2);
  return path;
}

uint64_t CgroupReader::read_figure(size_t length, const char* version1, const char* version2) {
  char text[32];
  if (read_small_file(file(length, version1, version2), text, sizeof text) <= 0) return kUnknownBytes;
  if (*text < '0' || *text > '9') return kUnknownBytes;  // "max"
  const char* number = text;
  uint64_t bytes = parse_decimal(&number);
  return bytes >= kNoLimit ? kUnknownBytes : bytes;
}

uint64_t CgroupReader::read_reclaimable(size_t length) {
  const char* name = is_version1_ ? "total_inactive_file " : "inactive_file ";
  LineReader lines(file(length, "/memory.stat", "/memory.stat"));
  while (const char* line = lines.is_open() ? lines.next() : nullptr) {
    if (strncmp(line, name, strlen(name)) != 0) continue;
    line += strlen(name);
    return parse_decimal(&line);
  }
  return kUnknownBytes;
}

CgroupMemory CgroupReader::read() {
  CgroupMemory nearest;
  if (length_ == 0) return nearest;
  uint64_t least_left = UINT64_MAX;
  size_t of_nearest = length_;
  nearest.current = read_figure(length_, "/memory.usage_in_bytes", "/memory.current");
  for (size_t length = length_;;) {
    uint64_t current = read_figure(length, "/memory.usage_in_bytes", "/memory.current");
    uint64_t limit = read_figure(length, "/memory.limit_in_bytes", "/memory.max");
    if (current != kUnknownBytes && limit != kUnknownBytes && limit - std::min(current, limit) < least_left) {
      least_left = limit - std::min(current, limit);
      nearest.current = current;
      nearest.limit = limit;
      of_nearest = length;
    }
    if (length <= root_) break;
    do --length;
    while (length > root_ && folder_[length] != '/');
  }
  nearest.reclaimable = read_reclaimable(of_nearest);
  return nearest;
}

}  // namespace hakmem::telemetry
