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

// False where there is no live block, which has been said. Few programs have types of such an
// alignment, so each is looked at in every build.
inline bool may_delete(void* address, size_t bytes, std::align_val_t alignment, bool is_array) {
  return !is_ours_aligned(is_array) ||
         hakmem::check_size(address, static_cast<size_t>(alignment), bytes == 0 ? 1 : bytes);
}

template <bool is_array>
void delete_unsized(void* address) {
  is_array ? operator delete[](address) : operator delete(address);
}

// A sized delete goes on to the unsized one, which may be the program's. To ask each time would
// lengthen the hot path; so a thread's frees end there once this has seen that both are ours.
template <bool is_array>
[[gnu::noinline]] void delete_cold(void* address, size_t bytes) noexcept {
  using namespace hakmem;
  if (!is_ours(is_array)) return delete_unsized<is_array>(address);
  if (address == nullptr) return;
  if (thread_state.phase == ThreadPhase::kRunning && is_ours(true)) thread_state.sized_cache = thread_state.cache;
  if (check_size(address, 1, bytes == 0 ? 1 : bytes)) hakmem::free(address);
}

// Of a slab of another thread, whose size is not looked at; or none that has a class and an owner.
template <bool is_array>
[[gnu::noinline]] void delete_foreign(void* address, size_t bytes, hakmem::Slab* slab) noexcept {
  using namespace hakmem;
  uintptr_t owner_word = slab->owner.load(std::memory_order_relaxed);
  if (owner_word < owner::kPooled || thread_state.sized_cache == &empty_cache) [[unlikely]]
    return delete_cold<is_array>(address, bytes);
  free_foreign(address, slab);
}

template <bool is_array>
[[gnu::noinline]] void delete_counted_out(hakmem::Block* block, hakmem::Slab* slab, size_t bytes) noexcept {
  if (is_size_of(slab, bytes)) [[likely]]
    return free_counted_out(block, slab);
  ++slab->bin->frees_left;
  delete_cold<is_array>(block, bytes);
}

template <bool is_array>
HAKMEM_INLINE void delete_sized(void* address, size_t bytes) {
  if constexpr (hakmem::kChecksDeletes) return delete_cold<is_array>(address, bytes);
  hakmem::free_of_size<delete_cold<is_array>, delete_foreign<is_array>, delete_counted_out<is_array>>(address, bytes);
}

}  // namespace

HAKMEM_EXPORT void operator delete[](void* address) noexcept { operator delete(address); }
HAKMEM_EXPORT void operator delete(void* address, size_t bytes) noexcept { delete_sized<false>(address, bytes); }
HAKMEM_EXPORT void operator delete[](void* address, size_t bytes) noexcept { delete_sized<true>(address, bytes); }
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
