// The bytes of a fuzzer's input, taken from the front. Beyond the end they are 0,
// so that every prefix of an input is one too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace hakmem::fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }
  size_t size() const { return left_; }

  template <class Number>
  Number take() {
    Number number{};
    size_t bytes = left_ < sizeof number ? left_ : sizeof number;
    memcpy(&number, data_, bytes);
    skip(bytes);
    return number;
  }

  // The next `bytes`, or what is left of them.
  std::string take_text(size_t bytes) {
    if (bytes > left_) bytes = left_;
    std::string text(reinterpret_cast<const char*>(data_), bytes);
    skip(bytes);
    return text;
  }

 private:
  void skip(size_t bytes) {
    data_ += bytes;
    left_ -= bytes;
  }

  const uint8_t* data_;
  size_t left_;
};

// Ends the process, which the fuzzer keeps the input of, unless `is_true`.
#define HAKMEM_FUZZ_CHECK(is_true) \
  ((is_true) ? static_cast<void>(0) : hakmem::fuzz::found(#is_true, __FILE__, __LINE__))

[[noreturn]] inline void found(const char* what, const char* file, int line) {
  fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  abort();
}

}  // namespace hakmem::fuzz
