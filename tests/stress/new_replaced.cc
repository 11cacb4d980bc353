// A program that replaces operator new and delete of its own, and only the
// plain forms: all other forms, wherever they come from, must end up in its
// replacements ([new.delete.single]: "calls operator new(size)"). Its blocks are
// not malloc's, so a form that goes to malloc or free by itself is seen at once.
#include <stdint.h>

#include <memory>
#include <new>
#include <string>

#include "tests/stress/content.h"

namespace {

constexpr size_t kHeaderBytes = 64;
constexpr uint64_t kMark = 0x6e6577206f776e21ull;
size_t allocations = 0;
size_t frees = 0;
bool fail_next = false;

}  // namespace

// A header in front of each block: a pointer that free() could not take.
void* operator new(size_t size) {
  if (fail_next) {
    fail_next = false;
    throw std::bad_alloc();
  }
  auto* header = static_cast<uint64_t*>(malloc(size + kHeaderBytes));
  if (header == nullptr) throw std::bad_alloc();
  *header = kMark;
  ++allocations;
  return reinterpret_cast<char*>(header) + kHeaderBytes;
}

void operator delete(void* block) noexcept {
  if (block == nullptr) return;
  auto* header = reinterpret_cast<uint64_t*>(static_cast<char*>(block) - kHeaderBytes);
  CHECK(*header == kMark);
  *header = 0;
  ++frees;
  free(header);
}

namespace stress {
namespace {

void check_forms() {
  struct {
    const char* name;
    void* (*allocate)();
    void (*release)(void*);
  } forms[] = {
      {"new, delete", [] { return ::operator new(opaque(size_t{50})); }, [](void* block) { ::operator delete(block); }},
      {"new, sized delete", [] { return ::operator new(opaque(size_t{50})); },
       [](void* block) { ::operator delete(block, opaque(size_t{50})); }},
      {"new[], delete[]", [] { return ::operator new[](opaque(size_t{50})); },
       [](void* block) { ::operator delete[](block); }},
      {"new[], sized delete[]", [] { return ::operator new[](opaque(size_t{50})); },
       [](void* block) { ::operator delete[](block, opaque(size_t{50})); }},
      {"nothrow new, nothrow delete", [] { return ::operator new(opaque(size_t{50}), std::nothrow); },
       [](void* block) { ::operator delete(block, std::nothrow); }},
      {"nothrow new[], nothrow delete[]", [] { return ::operator new[](opaque(size_t{50}), std::nothrow); },
       [](void* block) { ::operator delete[](block, std::nothrow); }},
  };
  for (auto [name, allocate, release] : forms) {
    size_t allocations_before = allocations, frees_before = frees;
    void* block = allocate();
    CHECK(block != nullptr);
    if (allocations != allocations_before + 1) dprintf(2, "%s: the program's operator new was not called\n", name);
    CHECK_OP(allocations, ==, allocations_before + 1);
    fill_content(block, 50, 1);
    release(opaque(block));
    if (frees != frees_before + 1) dprintf(2, "%s: the program's operator delete was not called\n", name);
    CHECK_OP(frees, ==, frees_before + 1);
  }
}

// The nothrow forms turn an exception of the replaced operator new into nullptr.
void check_failures() {
  fail_next = true;
  CHECK(::operator new(opaque(size_t{50}), std::nothrow) == nullptr);
  CHECK(!fail_next);
  fail_next = true;
  CHECK(::operator new[](opaque(size_t{50}), std::nothrow) == nullptr);
  CHECK(!fail_next);
  bool thrown = false;
  fail_next = true;
  try {
    ::operator delete[](::operator new[](opaque(size_t{50})));
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
}

// The C++ library's own blocks take the same way.
void check_library() {
  size_t before = allocations;
  auto text = std::make_unique<std::string>(1000, 'x');
  *text += std::string(5000, 'y');
  CHECK_OP(allocations, >, before + 1);
  CHECK_OP(text->size(), ==, size_t{6000});
}

}  // namespace
}  // namespace stress

int main() {
  stress::require_hakmem();
  stress::check_forms();
  stress::check_failures();
  stress::check_library();
  return stress::passed("new_replaced");
}
