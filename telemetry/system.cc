#include "telemetry/system.h"

#include <errno.h>

#include <cstring>

namespace hakmem::telemetry {

ssize_t read_small_file(const char* path, char* buffer, size_t bytes) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  size_t length = 0;
  while (length < bytes - 1) {
    ssize_t count = read(fd, buffer + length, bytes - 1 - length);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    length += static_cast<size_t>(count);
  }
  close(fd);
  buffer[length] = '\0';
  return static_cast<ssize_t>(length);
}

uint64_t parse_decimal(const char** text) {
  uint64_t number = 0;
  for (; **text >= '0' && **text <= '9'; ++*text) number = number * 10 + static_cast<uint64_t>(**text - '0');
  return number;
}

uint64_t parse_hexadecimal(const char** text) {
  uint64_t number = 0;
  for (;; ++*text) {
    char c = **text;
    if (c >= '0' && c <= '9') {
      number = number << 4 | static_cast<uint64_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      number = number << 4 | static_cast<uint64_t>(c - 'a' + 10);
    } else {
      return number;
    }
  }
}

namespace {

bool read_stat(const char* path, ProcessStat* result) {
  char buffer[512];
  if (read_small_file(path, buffer, sizeof buffer) <= 0) return false;
  // The name, field 2, may itself hold spaces and brackets: count from its end.
  const char* field = strrchr(buffer, ')');
  if (field == nullptr || field[1] != ' ') return false;
  field += 2;
  result->is_zombie = *field == 'Z' || *field == 'X';
  for (int number = 3; number <= 22; ++number) {
    if (number == 4) {
      result->parent = static_cast<uint32_t>(parse_decimal(&field));
    } else if (number == 14) {
      result->cpu_ticks = parse_decimal(&field);
    } else if (number == 15) {
      result->cpu_ticks += parse_decimal(&field);
    } else if (number == 22) {
      result->start_time = parse_decimal(&field);
      return true;
    }
    field = strchr(field, ' ');
    if (field == nullptr) return false;
    ++field;
  }
  return false;
}

}  // namespace

bool read_process_stat(uint32_t pid, ProcessStat* result) {
  char path[32];
  TextBuilder(path, sizeof path).text("/proc/").number(pid).text("/stat");
  return read_stat(path, result);
}

bool read_own_stat(ProcessStat* result) { return read_stat("/proc/self/stat", result); }

uint64_t own_pid_namespace() { return pid_namespace_of("/proc/self/ns/pid"); }

uint64_t pid_namespace_of(const char* link) {
  char target[64];
  ssize_t length = readlink(link, target, sizeof target - 1);
  if (length <= 0) return 0;
  target[length] = '\0';
  const char* number = strchr(target, '[');
  if (number == nullptr) return 0;
  ++number;
  return parse_decimal(&number);
}

TextBuilder& TextBuilder::text(const char* text) {
  while (*text != '\0' && next_ < end_) *next_++ = *text++;
  *next_ = '\0';
  return *this;
}

TextBuilder& TextBuilder::number(uint64_t number) {
  char digits[21];
  char* first = digits + 20;
  *first = '\0';
  do *--first = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  return text(first);
}

}  // namespace hakmem::telemetry
