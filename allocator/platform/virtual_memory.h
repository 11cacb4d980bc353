// Virtual memory of the process. The floors above take it as a type, so that a
// test can put a kernel that fails under them.
#pragma once

#include <string.h>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace hakmem {

// Of the kernel, at such addresses.
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// All addresses and sizes are multiples of kPageBytes. Nothing here changes errno.
template <class T>
concept VirtualMemory = requires(void* address, size_t bytes, uintptr_t hint) {
  // Addresses without access, aligned; near `hint` where that is free (0: anywhere). Null when there are none.
  { T::reserve(bytes, bytes, hint) } -> std::same_as<void*>;
  // Makes reserved addresses readable and writable, as zeroes. False when the kernel refuses.
  { T::commit(address, bytes) } -> std::same_as<bool>;
  // Makes reserved addresses readable, as zeroes. False when the kernel refuses.
  { T::allow_reading(address, bytes) } -> std::same_as<bool>;
  // Gives the pages back; the addresses stay committed and read as zeroes.
  { T::purge(address, bytes) } -> std::same_as<bool>;
  // Whether the kernel may put huge pages there. It need not follow.
  { T::allow_huge_pages(address, bytes, true) } -> std::same_as<void>;
  // Takes access to committed pages away, whose content is lost. False when the kernel refuses.
  { T::guard(address, bytes) } -> std::same_as<bool>;
  // Undoes it: they read as zeroes.
  { T::unguard(address, bytes) } -> std::same_as<void>;
  // Gives the addresses back.
  { T::release(address, bytes) } -> std::same_as<void>;
  // A committed mapping of its own; null when the kernel refuses.
  { T::map(bytes, bytes) } -> std::same_as<void*>;
  // A committed mapping at just this address, where nothing is mapped now. False when refused.
  { T::map_at(address, bytes) } -> std::same_as<bool>;
  // Resizes such a mapping, moving it where needed; null when refused, and then nothing changed.
  { T::remap(address, bytes, bytes) } -> std::same_as<void*>;
  // Address space that this process may still take, SIZE_MAX when unlimited.
  { T::address_space_limit() } -> std::same_as<size_t>;
};

struct LinuxMemory {
  static void* reserve(size_t bytes, size_t alignment, uintptr_t hint);
  static bool commit(void* address, size_t bytes);
  static bool allow_reading(void* address, size_t bytes);
  static bool purge(void* address, size_t bytes);
  static void allow_huge_pages(void* address, size_t bytes, bool allowed);
  // Has committed pages made now, by one call in place of a page fault each. The kernel need not follow.
  static void populate(void* address, size_t bytes);
  static bool guard(void* address, size_t bytes);
  static void unguard(void* address, size_t bytes);
  static void release(void* address, size_t bytes);
  static void* map(size_t bytes, size_t alignment);
  static bool map_at(void* address, size_t bytes);
  static void* remap(void* address, size_t old_bytes, size_t new_bytes);
  static size_t address_space_limit();
};

static_assert(VirtualMemory<LinuxMemory>);

// Clears whole pages: by giving them back, or where that is refused, as for locked ones, one by one.
template <VirtualMemory Memory>
void clear_pages(void* address, size_t bytes) {
  if (!Memory::purge(address, bytes)) memset(address, 0, bytes);
}

}  // namespace hakmem
