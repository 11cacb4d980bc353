// All forms of operator new and delete, the loop over the new-handler, and
// std::bad_alloc. Called as functions: a new-expression may be optimised away.
// Sources: C++20 [new.delete.single], [new.delete.array], [alloc.errors].
#include <malloc.h>

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kTooLarge = static_cast<size_t>(PTRDIFF_MAX) + 1;
constexpr std::align_val_t kAlignments[] = {std::align_val_t{1},    std::align_val_t{8},     std::align_val_t{16},
                                            std::align_val_t{32},   std::align_val_t{64},    std::align_val_t{256},
                                            std::align_val_t{4096}, std::align_val_t{65536}, std::align_val_t{1 << 20}};

// The eight forms of new by number: bit 0 array, bit 1 nothrow, bit 2 aligned.
constexpr unsigned kArray = 1, kNothrow = 2, kAligned = 4, kForms = 8;

void* call_new(unsigned form, size_t size, std::align_val_t alignment) {
  size = opaque(size);
  switch (form) {
    case 0: return ::operator new(size);
    case kArray: return ::operator new[](size);
    case kNothrow: return ::operator new(size, std::nothrow);
    case kNothrow | kArray: return ::operator new[](size, std::nothrow);
    case kAligned: return ::operator new(size, alignment);
    case kAligned | kArray: return ::operator new[](size, alignment);
    case kAligned | kNothrow: return ::operator new(size, alignment, std::nothrow);
    case kAligned | kNothrow | kArray: return ::operator new[](size, alignment, std::nothrow);
  }
  abort();
}

// Every form of delete that fits a form of new.
constexpr unsigned kDeletesOfForm = 3;
void call_delete(unsigned form, unsigned which, void* block, size_t size, std::align_val_t alignment) {
  switch (form & (kArray | kAligned)) {
    case 0:
      if (which == 0) ::operator delete(block);
      if (which == 1) ::operator delete(block, size);
      if (which == 2) ::operator delete(block, std::nothrow);
      break;
    case kArray:
      if (which == 0) ::operator delete[](block);
      if (which == 1) ::operator delete[](block, size);
      if (which == 2) ::operator delete[](block, std::nothrow);
      break;
    case kAligned:
      if (which == 0) ::operator delete(block, alignment);
      if (which == 1) ::operator delete(block, size, alignment);
      if (which == 2) ::operator delete(block, alignment, std::nothrow);
      break;
    case kAligned | kArray:
      if (which == 0) ::operator delete[](block, alignment);
      if (which == 1) ::operator delete[](block, size, alignment);
      if (which == 2) ::operator delete[](block, alignment, std::nothrow);
      break;
  }
}

void all_forms() {
  static const size_t kSizes[] = {0, 1, 8, 16, 24, 100, 1000, 5000, 40000, 200000, 1 << 20, 10 << 20};
  uint64_t tag = 0;
  for (unsigned form = 0; form < kForms; ++form) {
    for (std::align_val_t alignment : kAlignments) {
      if (!(form & kAligned) && alignment != kAlignments[0]) continue;
      for (size_t size : kSizes) {
        for (unsigned which = 0; which < kDeletesOfForm; ++which) {
          void* first = call_new(form, size, alignment);
          void* second = call_new(form, size, alignment);
          CHECK(first != nullptr && second != nullptr && first != second);
          if (form & kAligned) CHECK(is_aligned(first, static_cast<size_t>(alignment)));
          if (!(form & kAligned)) CHECK(is_aligned(first, size < 16 ? 8 : 16));
          CHECK_OP(malloc_usable_size(first), >=, size);
          if (size != 0) {
            fill_content(first, size, ++tag);
            fill_content(second, size, ~tag);
            check_content(first, size, tag);
          }
          call_delete(form, which, first, size, alignment);
          if (size != 0) check_content(second, size, ~tag);
          call_delete(form, which, second, size, alignment);
          call_delete(form, which, nullptr, size, alignment);
        }
      }
    }
  }
}

void impossible_size_throws(bool hakmem) {
  CHECK(std::get_new_handler() == nullptr);
  for (size_t size : {kTooLarge, SIZE_MAX - 100, SIZE_MAX}) {
    for (unsigned form = 0; form < kForms; ++form) {
      // libstdc++ 12 rounds SIZE_MAX up to an aligned 0, and succeeds.
      if (!hakmem && (form & kAligned)) continue;
      bool thrown = false;
      void* block = &block;
      try {
        block = call_new(form, size, std::align_val_t{64});
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      if (form & kNothrow)
        CHECK(!thrown && block == nullptr);
      else
        CHECK(thrown);
    }
  }
}

int handler_calls;

// Gives up at the third call: the loop must ask for the handler each time.
void handler_that_gives_up() {
  if (++handler_calls == 3) std::set_new_handler(nullptr);
}

struct OwnError : std::bad_alloc {};
void handler_that_throws() {
  ++handler_calls;
  throw OwnError();
}

// Installs another one: that one is called next.
void handler_that_hands_over() {
  ++handler_calls;
  std::set_new_handler(handler_that_throws);
}

void new_handler_loop() {
  for (unsigned form = 0; form < kForms; ++form) {
    bool nothrow = form & kNothrow;
    struct {
      std::new_handler handler;
      int calls;
      bool own_error;
    } cases[] = {{handler_that_gives_up, 3, false}, {handler_that_throws, 1, true}, {handler_that_hands_over, 2, true}};
    for (auto [handler, calls, own_error] : cases) {
      handler_calls = 0;
      std::set_new_handler(handler);
      bool thrown = false, own = false;
      void* block = &block;
      try {
        block = call_new(form, kTooLarge, std::align_val_t{128});
      } catch (const OwnError&) {
        thrown = own = true;
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      std::set_new_handler(nullptr);
      CHECK_OP(handler_calls, ==, calls);
      CHECK(thrown == !nothrow);
      CHECK(own == (own_error && !nothrow));
      if (nothrow) CHECK(block == nullptr);
    }
  }
}

// malloc does not know the new-handler.
void malloc_ignores_handler() {
  handler_calls = 0;
  std::set_new_handler(handler_that_gives_up);
  CHECK(malloc(opaque(kTooLarge)) == nullptr);
  CHECK(calloc(opaque(kTooLarge), 4) == nullptr);
  std::set_new_handler(nullptr);
  CHECK_OP(handler_calls, ==, 0);
}

struct alignas(128) Wide {
  explicit Wide(int number) : value(number) {}
  int value;
  char rest[200] = {};
};

// Through the library, where sized and aligned forms come from new-expressions.
void library_types() {
  std::vector<std::unique_ptr<Wide>> wide;
  std::vector<std::string> strings;
  for (int i = 0; i < 3000; ++i) {
    wide.push_back(std::make_unique<Wide>(i));
    CHECK(is_aligned(wide.back().get(), 128));
    strings.push_back(std::string(static_cast<size_t>(i % 300), static_cast<char>('a' + i % 26)));
  }
  for (int i = 0; i < 3000; ++i) {
    CHECK(wide[static_cast<size_t>(i)]->value == i);
    CHECK(strings[static_cast<size_t>(i)] ==
          std::string(static_cast<size_t>(i % 300), static_cast<char>('a' + i % 26)));
  }
  bool thrown = false;
  try {
    std::vector<char> impossible(opaque(static_cast<size_t>(PTRDIFF_MAX)));
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
  // Wrong, but seen in programs, and harmless with every malloc they meet.
  free(::operator new(100));
  ::operator delete(malloc(100));
}

}  // namespace
}  // namespace stress

int main() {
  bool hakmem = stress::require_hakmem();
  stress::all_forms();
  stress::impossible_size_throws(hakmem);
  stress::new_handler_loop();
  stress::malloc_ignores_handler();
  stress::library_types();
  return stress::passed("new_delete");
}
