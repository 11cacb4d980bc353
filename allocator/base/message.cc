#include "allocator/base/message.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "allocator/base/environment.h"

namespace hakmem {
namespace {

constexpr const char* kTexts[] = {
    "double free of",
    "not a pointer that hakmem allocated:",
    "not the start of an allocated block:",
    "corrupted free list, a freed block was written to:",
    "freed with a wrong size or alignment:",
    "out of memory, and the program has no C++ runtime to throw std::bad_alloc; request at",
};
static_assert(sizeof kTexts / sizeof kTexts[0] == static_cast<size_t>(Message::kCount));

}  // namespace

LineBuffer& LineBuffer::text(const char* text) {
  while (*text != 0) put(*text++);
  return *this;
}

LineBuffer& LineBuffer::number(uint64_t value) {
  char digits[20];
  int count = 0;
  do digits[count++] = static_cast<char>('0' + value % 10);
  while ((value /= 10) != 0);
  while (count > 0) put(digits[--count]);
  return *this;
}

LineBuffer& LineBuffer::hex(uint64_t value) {
  put('0');
  put('x');
  int shift = 60;
  while (shift > 0 && (value >> shift) == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) put("0123456789abcdef"[(value >> shift) & 15]);
  return *this;
}

void LineBuffer::print() {
  print_text(data_, size_);
  size_ = 0;
}

void print_text(const char* text, size_t length) {
  int saved_errno = errno;
  while (length > 0) {
    ssize_t written = ::write(STDERR_FILENO, text, length);
    if (written <= 0 && errno != EINTR) break;
    if (written > 0) {
      text += written;
      length -= static_cast<size_t>(written);
    }
  }
  errno = saved_errno;
}

void print_message(Message message, uintptr_t address) {
  LineBuffer line;
  line.text("hakmem: ").text(kTexts[static_cast<size_t>(message)]).text(" ").hex(address).text("\n").print();
}

void fail(Message message, uintptr_t address) {
  print_message(message, address);
  abort();
}

void report_misuse(Message message, const void* address) {
  check_environment();
  print_message(message, reinterpret_cast<uintptr_t>(address));
  if (environment_text(Variable::kOnError)[0] == 'a') abort();
}

}  // namespace hakmem
