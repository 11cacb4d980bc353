// The forms of operator new and delete that the others rest on; those are in
// new_delete_forms.cc.
//
// What is thrown and which new-handler is asked comes from the C++ runtime of
// the program: both are bound weakly, so that a C program needs none.
#include <new>

#include "allocator/api/allocator.h"
#include "allocator/base/message.h"

#define HAKMEM_EXPORT [[gnu::visibility("default")]]

// std::get_new_handler() and std::__throw_bad_alloc() by their linkage names:
// declared so, the compiler does not take them for always present.
extern "C" {
[[gnu::weak]] void (*hakmem_get_new_handler())() __asm__("_ZSt15get_new_handlerv");
[[gnu::weak]] void hakmem_throw_bad_alloc() __asm__("_ZSt17__throw_bad_allocv");
}

namespace hakmem {
namespace {

void* allocate_for_new(size_t alignment, size_t bytes) {
  return alignment <= kBlockAlignment ? allocate(bytes) : allocate_aligned(alignment, bytes);
}

// Asks the new-handler until there is memory; null when there is no handler.
HAKMEM_COLD void* allocate_with_handler(size_t alignment, size_t bytes) {
  for (;;) {
    auto handler = hakmem_get_new_handler != nullptr ? hakmem_get_new_handler() : nullptr;
    if (handler == nullptr) return nullptr;
    handler();
    if (void* address = allocate_for_new(alignment, bytes); address != nullptr) return address;
  }
}

HAKMEM_COLD void* allocate_or_throw(size_t alignment, size_t bytes) {
  if (void* address = allocate_with_handler(alignment, bytes); address != nullptr) return address;
  if (hakmem_throw_bad_alloc != nullptr) hakmem_throw_bad_alloc();
  fail(Message::kNoBadAlloc, bytes);
}

// The cold sides of allocate() with the failure that operator new has: so the
// hot path needs no test of its own.
[[gnu::noinline]] void* new_cold(size_t bytes) {
  void* address = allocate_cold(bytes);
  return address != nullptr ? address : allocate_or_throw(kBlockAlignment, bytes);
}
[[gnu::noinline]] void* new_above_table(size_t bytes) {
  void* address = allocate_above_table(bytes);
  return address != nullptr ? address : allocate_or_throw(kBlockAlignment, bytes);
}

// After a write into a freed block, which was leaked.
HAKMEM_COLD void* new_again(size_t bytes) { return allocate<new_cold, new_above_table, new_again>(bytes); }

inline void* new_aligned(size_t bytes, std::align_val_t alignment) {
  void* address = allocate_for_new(static_cast<size_t>(alignment), bytes);
  return address != nullptr ? address : allocate_or_throw(static_cast<size_t>(alignment), bytes);
}

}  // namespace
}  // namespace hakmem

HAKMEM_EXPORT void* operator new(size_t bytes) {
  return hakmem::allocate<hakmem::new_cold, hakmem::new_above_table, hakmem::new_again>(bytes);
}
HAKMEM_EXPORT void* operator new(size_t bytes, std::align_val_t alignment) {
  return hakmem::new_aligned(bytes, alignment);
}
HAKMEM_EXPORT void operator delete(void* address) noexcept { hakmem::free(address); }
HAKMEM_EXPORT void operator delete(void* address, std::align_val_t alignment) noexcept {
  auto wanted = static_cast<size_t>(alignment);
  bool is_suspect = ((reinterpret_cast<uintptr_t>(address) | wanted) & (wanted - 1)) != 0;
  if (is_suspect && !hakmem::check_alignment(address, wanted)) [[unlikely]]
    return;
  hakmem::free(address);
}

// By which the other forms know whether the program has replaced these.
extern "C" {
[[gnu::visibility("hidden"), gnu::alias("_ZdlPv")]] void hakmem_delete(void* address) noexcept;
[[gnu::visibility("hidden"), gnu::alias("_ZdlPvSt11align_val_t")]] void hakmem_delete_aligned(
    void* address, std::align_val_t alignment) noexcept;
}
