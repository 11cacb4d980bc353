// The forms of operator new and delete that call other forms, as the standard
// has it: a program that replaces one form replaces these with it. They stand
// in a file of their own, compiled with -fsemantic-interposition, so that each call
// goes through the dynamic linker.
#include <new>

#include "allocator/api/allocator.h"

#define HAKMEM_EXPORT [[gnu::visibility("default")]]

// This file alone has exception handling; a program without a C++ runtime never
// gets as far as to need these.
__asm__(".weak __gxx_personality_v0\n.weak __cxa_begin_catch\n.weak __cxa_end_catch\n.weak _ZSt9terminatev");
extern "C" [[gnu::weak]] void hakmem_throw_bad_alloc() __asm__("_ZSt17__throw_bad_allocv");

HAKMEM_EXPORT void* operator new[](size_t bytes) { return operator new(bytes); }
HAKMEM_EXPORT void* operator new[](size_t bytes, std::align_val_t alignment) { return operator new(bytes, alignment); }

HAKMEM_EXPORT void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  if (hakmem_throw_bad_alloc == nullptr) return hakmem::allocate(bytes);
  try {
    return operator new(bytes);
  } catch (...) {
    return nullptr;
  }
}
HAKMEM_EXPORT void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  if (hakmem_throw_bad_alloc == nullptr) return hakmem::allocate_aligned(static_cast<size_t>(alignment), bytes);
  try {
    return operator new(bytes, alignment);
  } catch (...) {
    return nullptr;
  }
}
HAKMEM_EXPORT void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  if (hakmem_throw_bad_alloc == nullptr) return hakmem::allocate(bytes);
  try {
    return operator new[](bytes);
  } catch (...) {
    return nullptr;
  }
}
HAKMEM_EXPORT void* operator new[](size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  if (hakmem_throw_bad_alloc == nullptr) return hakmem::allocate_aligned(static_cast<size_t>(alignment), bytes);
  try {
    return operator new[](bytes, alignment);
  } catch (...) {
    return nullptr;
  }
}

// The functions that a form ends up in, when they are ours: what a program's own returns and takes
// back is not held against the size.
extern "C" {
[[gnu::visibility("hidden")]] void hakmem_delete(void* address) noexcept;
[[gnu::visibility("hidden")]] void hakmem_delete_aligned(void* address, std::align_val_t alignment) noexcept;
[[gnu::visibility("hidden"), gnu::alias("_ZdaPv")]] void hakmem_delete_array(void* address) noexcept;
[[gnu::visibility("hidden"), gnu::alias("_ZdaPvSt11align_val_t")]] void hakmem_delete_array_aligned(
    void* address, std::align_val_t alignment) noexcept;
}

namespace {

using Delete = void(void*) noexcept;
using DeleteAligned = void(void*, std::align_val_t) noexcept;

bool is_ours(bool is_array) {
  return static_cast<Delete*>(operator delete) == hakmem_delete &&
         (!is_array || static_cast<Delete*>(operator delete[]) == hakmem_delete_array);
}
bool is_ours_aligned(bool is_array) {
  return static_cast<DeleteAligned*>(operator delete) == hakmem_delete_aligned &&
         (!is_array || static_cast<DeleteAligned*>(operator delete[]) == hakmem_delete_array_aligned);
}

// False where there is no live block, which has been said.
inline bool may_delete(void* address, size_t bytes, bool is_array) {
  return !hakmem::kChecksDeletes || !is_ours(is_array) || hakmem::check_size(address, 1, bytes == 0 ? 1 : bytes);
}
inline bool may_delete(void* address, size_t bytes, std::align_val_t alignment, bool is_array) {
  return !hakmem::kChecksDeletes || !is_ours_aligned(is_array) ||
         hakmem::check_size(address, static_cast<size_t>(alignment), bytes == 0 ? 1 : bytes);
}

}  // namespace

HAKMEM_EXPORT void operator delete[](void* address) noexcept { operator delete(address); }
HAKMEM_EXPORT void operator delete(void* address, size_t bytes) noexcept {
  if (may_delete(address, bytes, false)) operator delete(address);
}
HAKMEM_EXPORT void operator delete[](void* address, size_t bytes) noexcept {
  if (may_delete(address, bytes, true)) operator delete[](address);
}
HAKMEM_EXPORT void operator delete[](void* address, std::align_val_t alignment) noexcept {
  operator delete(address, alignment);
}
HAKMEM_EXPORT void operator delete(void* address, size_t bytes, std::align_val_t alignment) noexcept {
  if (may_delete(address, bytes, alignment, false)) operator delete(address, alignment);
}
HAKMEM_EXPORT void operator delete[](void* address, size_t bytes, std::align_val_t alignment) noexcept {
  if (may_delete(address, bytes, alignment, true)) operator delete[](address, alignment);
}
HAKMEM_EXPORT void operator delete(void* address, const std::nothrow_t&) noexcept { operator delete(address); }
HAKMEM_EXPORT void operator delete[](void* address, const std::nothrow_t&) noexcept { operator delete[](address); }
HAKMEM_EXPORT void operator delete(void* address, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  operator delete(address, alignment);
}
HAKMEM_EXPORT void operator delete[](void* address, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  operator delete[](address, alignment);
}
