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

HAKMEM_INLINE void* new_block(size_t bytes) {
  void* address = allocate(bytes);
  if (address == nullptr) [[unlikely]]
    return allocate_or_throw(kBlockAlignment, bytes);
  return address;
}

inline void* new_aligned(size_t bytes, std::align_val_t alignment) {
  void* address = allocate_for_new(static_cast<size_t>(alignment), bytes);
  return address != nullptr ? address : allocate_or_throw(static_cast<size_t>(alignment), bytes);
}

}  // namespace
}  // namespace hakmem

HAKMEM_EXPORT void* operator new(size_t bytes) { return hakmem::new_block(bytes); }
HAKMEM_EXPORT void* operator new(size_t bytes, std::align_val_t alignment) {
  return hakmem::new_aligned(bytes, alignment);
}
HAKMEM_EXPORT void operator delete(void* address) noexcept { hakmem::free(address); }
HAKMEM_EXPORT void operator delete(void* address, std::align_val_t) noexcept { hakmem::free(address); }
