// Product messages: the lines that hakmem may print in every build, in one table.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem {

enum class Message : uint8_t {
  kDoubleFree,
  kForeignPointer,
  kInvalidPointer,
  kCorruptedFreeList,
  kWrongSize,
  kNoBadAlloc,
  kCount
};

// Writes "hakmem: <text> 0x<address>\n" to stderr with one write(2). Any
// thread, any signal context; keeps errno.
void print_message(Message message, uintptr_t address);

// print_message, then abort().
[[noreturn]] void fail(Message message, uintptr_t address);

// The program has misused the heap: print_message, then abort(), unless
// HAKMEM_ON_ERROR=report. Then the caller ignores the call, or leaks what cannot
// be trusted, so that the heap stays consistent.
[[gnu::cold, gnu::noinline]] void report_misuse(Message message, const void* address);

// Writes `text` to stderr as it is. For debug output and malloc_stats.
void print_text(const char* text, size_t length);

// A line put together without allocation; what does not fit is cut.
class LineBuffer {
 public:
  LineBuffer& text(const char* text);
  LineBuffer& number(uint64_t value);
  LineBuffer& hex(uint64_t value);
  void print();  // to stderr, and starts anew
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  void clear() { size_ = 0; }

 private:
  void put(char c) {
    if (size_ < sizeof data_) data_[size_++] = c;
  }
  char data_[512];
  size_t size_ = 0;
};

}  // namespace hakmem
