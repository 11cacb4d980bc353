// A program that replaces the plain array forms and the aligned single forms of
// operator new and delete: every other array form has to end up in the first, every
// other aligned one in the second ([new.delete.array], [new.delete.single]).
#include <new>

#include "tests/stress/content.h"

namespace {

// How often each replacement was called, and what the next call of one does.
int array_news, array_deletes, aligned_news, aligned_deletes;
bool fail_next;

void* take(int& calls, size_t alignment, size_t bytes) {
  ++calls;
  if (fail_next) {
    fail_next = false;
    throw std::bad_alloc();
  }
  void* block = aligned_alloc(alignment, bytes);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

}  // namespace

void* operator new[](size_t bytes) { return take(array_news, 16, bytes); }
void operator delete[](void* block) noexcept {
  ++array_deletes;
  free(block);
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return take(aligned_news, static_cast<size_t>(alignment), bytes);
}
void operator delete(void* block, std::align_val_t) noexcept {
  ++aligned_deletes;
  free(block);
}

namespace stress {
namespace {

constexpr std::align_val_t kAlignment{128};
constexpr size_t kBytes = 50;

struct Form {
  const char* name;
  int& news;
  int& deletes;
  void* (*allocate)(size_t bytes);
  void (*release)(void* block);
};

const Form kForms[] = {
    {"nothrow new[], nothrow delete[]", array_news, array_deletes,
     [](size_t bytes) { return ::operator new[](bytes, std::nothrow); },
     [](void* block) { ::operator delete[](block, std::nothrow); }},
    {"nothrow new[], sized delete[]", array_news, array_deletes,
     [](size_t bytes) { return ::operator new[](bytes, std::nothrow); },
     [](void* block) { ::operator delete[](block, kBytes); }},
    {"aligned nothrow new, aligned nothrow delete", aligned_news, aligned_deletes,
     [](size_t bytes) { return ::operator new(bytes, kAlignment, std::nothrow); },
     [](void* block) { ::operator delete(block, kAlignment, std::nothrow); }},
    {"aligned new[], aligned delete[]", aligned_news, aligned_deletes,
     [](size_t bytes) { return ::operator new[](bytes, kAlignment); },
     [](void* block) { ::operator delete[](block, kAlignment); }},
    {"aligned nothrow new[], aligned nothrow delete[]", aligned_news, aligned_deletes,
     [](size_t bytes) { return ::operator new[](bytes, kAlignment, std::nothrow); },
     [](void* block) { ::operator delete[](block, kAlignment, std::nothrow); }},
    {"aligned new[], sized aligned delete[]", aligned_news, aligned_deletes,
     [](size_t bytes) { return ::operator new[](bytes, kAlignment); },
     [](void* block) { ::operator delete[](block, kBytes, kAlignment); }},
    {"aligned nothrow new, sized aligned delete", aligned_news, aligned_deletes,
     [](size_t bytes) { return ::operator new(bytes, kAlignment, std::nothrow); },
     [](void* block) { ::operator delete(block, kBytes, kAlignment); }},
};

void check(const Form& form) {
  array_news = array_deletes = aligned_news = aligned_deletes = 0;
  void* block = form.allocate(opaque(kBytes));
  CHECK(block != nullptr);
  form.release(opaque(block));
  if (form.news != 1 || form.deletes != 1) dprintf(2, "%s: the program's own is not called\n", form.name);
  CHECK_OP(form.news, ==, 1);
  CHECK_OP(form.deletes, ==, 1);
  CHECK_OP(array_news + aligned_news, ==, 1);
  CHECK_OP(array_deletes + aligned_deletes, ==, 1);
}

void check_failures() {
  fail_next = true;
  CHECK(::operator new[](opaque(kBytes), std::nothrow) == nullptr);
  CHECK(!fail_next);
  fail_next = true;
  CHECK(::operator new(opaque(kBytes), kAlignment, std::nothrow) == nullptr);
  CHECK(!fail_next);
  fail_next = true;
  CHECK(::operator new[](opaque(kBytes), kAlignment, std::nothrow) == nullptr);
  CHECK(!fail_next);
}

}  // namespace
}  // namespace stress

int main() {
  stress::require_hakmem();
  for (const stress::Form& form : stress::kForms) stress::check(form);
  stress::check_failures();
  return stress::passed("new_replaced_array");
}
