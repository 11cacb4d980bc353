// Virtual memory whose kernel calls are counted and timed, for builds with
// statistics. A call that the memory below makes in several steps counts once,
// by the step that its name stands for.
#pragma once

#include "allocator/metrics/step_timer.h"
#include "allocator/platform/virtual_memory.h"

namespace hakmem {

template <VirtualMemory Memory>
struct CountedMemory {
  static void* reserve(size_t bytes, size_t alignment, uintptr_t hint) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Mmap);
    return Memory::reserve(bytes, alignment, hint);
  }
  static bool commit(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Mprotect);
    return Memory::commit(address, bytes);
  }
  static bool allow_reading(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Mprotect);
    return Memory::allow_reading(address, bytes);
  }
  static bool purge(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Madvise);
    return Memory::purge(address, bytes);
  }
  static void allow_huge_pages(void* address, size_t bytes, bool allowed) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Madvise);
    Memory::allow_huge_pages(address, bytes, allowed);
  }
  static void populate(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Madvise);
    Memory::populate(address, bytes);
  }
  static bool guard(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Madvise);
    return Memory::guard(address, bytes);
  }
  static void unguard(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Madvise);
    Memory::unguard(address, bytes);
  }
  static void release(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Munmap);
    Memory::release(address, bytes);
  }
  static void* map(size_t bytes, size_t alignment) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Mmap);
    return Memory::map(bytes, alignment);
  }
  static bool map_at(void* address, size_t bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Mmap);
    return Memory::map_at(address, bytes);
  }
  static void* remap(void* address, size_t old_bytes, size_t new_bytes) {
    metrics::KernelCallTimer timer(metrics::KernelCall::Mremap);
    return Memory::remap(address, old_bytes, new_bytes);
  }
  static size_t address_space_limit() { return Memory::address_space_limit(); }
};

}  // namespace hakmem
