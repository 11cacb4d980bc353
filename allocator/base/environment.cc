#include "allocator/base/environment.h"

#include <errno.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "allocator/base/build_profile.h"
#include "allocator/base/message.h"

// Where the kernel put the argument count; the environment follows it. Needed
// because the loader allocates before the C library has set `environ`.
extern "C" void* __libc_stack_end __attribute__((weak));

namespace hakmem {
namespace {

enum class Form : uint8_t { Address, Text, Directory, File, Bytes, OnError, Switch };
enum class Needs : uint8_t { Nothing, Telemetry, Sampling };

struct Row {
  const char* name;
  Form form;
  Needs needs;
  const char* default_value;
};

constexpr Row kRows[] = {
#define HAKMEM_VARIABLE(enumerator, name, form, needs, default_value, help) \
  {name, Form::form, Needs::needs, default_value},
#include "allocator/base/environment.def"
#undef HAKMEM_VARIABLE
};
constexpr size_t kRowCount = sizeof(kRows) / sizeof(kRows[0]);
static_assert(kRowCount == static_cast<size_t>(Variable::kCount));

constexpr size_t kTextBytes = 160;
constexpr size_t kProgramNameBytes = 15;

// Written by the first call of check_environment alone, before `state` is kRead.
struct Values {
  char text[kRowCount][kTextBytes];
  bool set[kRowCount];
  bool refused[kRowCount];
};
constinit Values values{};

enum State : uint8_t { kUnread, kReading, kRead };
constinit std::atomic<uint8_t> state{kUnread};

// The debug library samples but has no endpoint and no stats page.
constexpr bool has(Needs needs) {
  if (needs == Needs::Nothing) return true;
  return needs == Needs::Sampling ? kBuild.stats : kBuild.stats && !kBuild.exact_counts;
}

const char* const* first_environment() {
  if (environ != nullptr) return environ;
  if (&__libc_stack_end == nullptr || __libc_stack_end == nullptr) return nullptr;
  auto* stack = static_cast<char**>(__libc_stack_end);
  auto argument_count = reinterpret_cast<uintptr_t>(stack[0]);
  return stack + 1 + argument_count + 1;
}

bool read_number(const char* text, uint64_t* result) {
  uint64_t number = 0;
  if (*text == '\0') return false;
  for (; *text != '\0'; ++text) {
    if (*text < '0' || *text > '9') return false;
    if (__builtin_mul_overflow(number, uint64_t{10}, &number)) return false;
    if (__builtin_add_overflow(number, static_cast<uint64_t>(*text - '0'), &number)) return false;
  }
  *result = number;
  return true;
}

// The start of a string from outside, fit for a terminal.
struct Printable {
  explicit Printable(const char* source, size_t length = kTextBytes) {
    size_t i = 0;
    for (; i < length && i < sizeof(text) - 1 && source[i] != '\0'; ++i)
      text[i] = source[i] >= ' ' && source[i] <= '~' ? source[i] : '?';
    text[i] = '\0';
  }
  char text[80];
};

// What the value should have been, or null when it is good.
const char* complaint(Form form, const char* value) {
  ListenAddress address;
  uint64_t number;
  switch (form) {
    case Form::Address:
      return parse_listen_address(value, &address) ? nullptr
                                                   : "an IPv4 address and a port such as 127.0.0.1:19464; no endpoint";
    case Form::Text:
      return strlen(value) <= kProgramNameBytes ? nullptr : "a program's name of at most 15 characters; any program";
    case Form::Directory:
      return value[0] == '/' && strlen(value) < kTextBytes ? nullptr : "an absolute path; the default is used";
    case Form::File:
      return value[0] == '/' && strlen(value) < kTextBytes ? nullptr : "an absolute path; nothing is served";
    case Form::OnError:
      return strcmp(value, "abort") == 0 || strcmp(value, "report") == 0 ? nullptr
                                                                         : "abort or report; a misuse ends the process";
    case Form::Bytes: return read_number(value, &number) ? nullptr : "a number of bytes; the default is used";
    case Form::Switch:
      return strcmp(value, "0") == 0 || strcmp(value, "1") == 0 ? nullptr : "0 or 1; the default is used";
  }
  return nullptr;
}

void read_variable(size_t row, const char* value) {
  if (*value == '\0') return;
  LineBuffer line;
  if (!has(kRows[row].needs)) {
    line.text("hakmem: ").text(kRows[row].name).text(" has no effect: this is the ").text(kBuild.name);
    line.text(" library, which has no ");
    line.text(kRows[row].needs == Needs::Sampling ? "sampling\n" : "endpoint and no stats page\n").print();
    return;
  }
  if (const char* wanted = complaint(kRows[row].form, value)) {
    line.text("hakmem: ").text(kRows[row].name).text("=").text(Printable(value).text);
    line.text(" is not ").text(wanted).text("\n").print();
    values.refused[row] = true;
    return;
  }
  strcpy(values.text[row], value);
  values.set[row] = true;
}

void read_entry(const char* entry) {
  for (size_t row = 0; row < kRowCount; ++row) {
    size_t length = strlen(kRows[row].name);
    if (strncmp(entry, kRows[row].name, length) == 0 && entry[length] == '=') {
      read_variable(row, entry + length + 1);
      return;
    }
  }
  size_t length = strcspn(entry, "=");
  LineBuffer line;
  line.text("hakmem: ").text(Printable(entry, length).text).text(" is not a variable of hakmem and is ignored\n");
  line.print();
}

void read_entries(const char* const* entries) {
  for (; *entries != nullptr; ++entries) {
    const char* entry = *entries;
    // Most others are told apart without a call, and without a look at our constants.
    if (entry[0] == 'H' && entry[1] == 'A' && strncmp(entry, "HAKMEM_", 7) == 0) read_entry(entry);
  }
}

}  // namespace

void read_environment(const char* const* entries) {
  values = {};
  read_entries(entries);
}

void check_environment() {
  uint8_t expected = kUnread;
  if (!state.compare_exchange_strong(expected, kReading, std::memory_order_acq_rel)) return;
  int saved_errno = errno;
  const char* const* entries = getauxval(AT_SECURE) != 0 ? nullptr : first_environment();
  if (entries != nullptr) read_entries(entries);
  errno = saved_errno;
  state.store(kRead, std::memory_order_release);
}

const char* environment_text(Variable variable) {
  auto row = static_cast<size_t>(variable);
  return is_set(variable) ? values.text[row] : kRows[row].default_value;
}

uint64_t environment_number(Variable variable) {
  uint64_t number = 0;
  read_number(environment_text(variable), &number);
  return number;
}

bool is_set(Variable variable) {
  return state.load(std::memory_order_acquire) == kRead && values.set[static_cast<size_t>(variable)];
}

bool was_refused(Variable variable) {
  return state.load(std::memory_order_acquire) == kRead && values.refused[static_cast<size_t>(variable)];
}

bool parse_listen_address(const char* text, ListenAddress* result) {
  const char* colon = strrchr(text, ':');
  uint64_t port;
  if (colon == nullptr || !read_number(colon + 1, &port) || port == 0 || port > 65535) return false;
  auto host_length = static_cast<size_t>(colon - text);
  result->port = static_cast<uint16_t>(port);
  if (host_length == 9 && strncmp(text, "localhost", 9) == 0) {
    result->address = 0x7f000001;
    return true;
  }
  uint32_t address = 0;
  for (int part = 0; part < 4; ++part) {
    uint32_t number = 0;
    const char* start = text;
    for (; *text >= '0' && *text <= '9' && text - start < 3; ++text)
      number = number * 10 + static_cast<uint32_t>(*text - '0');
    if (text == start || number > 255 || *text != (part < 3 ? '.' : ':')) return false;
    ++text;
    address = address << 8 | number;
  }
  result->address = address;
  return text == colon + 1;
}

}  // namespace hakmem
