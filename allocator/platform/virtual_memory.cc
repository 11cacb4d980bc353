#include "allocator/platform/virtual_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>

#include "allocator/base/bits.h"
#include "allocator/base/probe.h"

namespace hakmem {
namespace {

class KeepErrno {
 public:
  KeepErrno() : saved_(errno) {}
  ~KeepErrno() { errno = saved_; }
  KeepErrno(const KeepErrno&) = delete;
  KeepErrno& operator=(const KeepErrno&) = delete;

 private:
  int saved_;
};

// Of Linux 6.13, which libc's headers need not know: guards without a mapping of their own.
constexpr int kGuardInstall = 102;
constexpr int kGuardRemove = 103;
constexpr int kPopulateWrite = 23;  // of Linux 5.14
// Elsewhere each guard makes two mappings more, and a process may have 65,530: so many guards at most.
constexpr uint32_t kMostProtectedGuards = 8192;
enum class GuardKind : uint8_t { kUnknown, kInstalled, kProtected };
constinit std::atomic<GuardKind> guard_kind{GuardKind::kUnknown};  // written with the first guard, under a lock above
constinit std::atomic<uint32_t> protected_guards{0};

// Maps with slack and trims it, so that the result is aligned.
void* map_aligned(size_t bytes, size_t alignment, uintptr_t hint, int protection, int flags) {
  void* hinted = reinterpret_cast<void*>(hint);
  void* mapped = ::mmap(hinted, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  uintptr_t start = reinterpret_cast<uintptr_t>(mapped);
  if (start % alignment == 0) return mapped;
  ::munmap(mapped, bytes);

  size_t slack = bytes + alignment - kPageBytes;  // no overflow: `bytes` could be had
  mapped = ::mmap(hinted, slack, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  start = reinterpret_cast<uintptr_t>(mapped);
  uintptr_t aligned = align_up(start, alignment);
  if (aligned > start) ::munmap(mapped, aligned - start);
  uintptr_t end = start + slack;
  if (end > aligned + bytes) ::munmap(reinterpret_cast<void*>(aligned + bytes), end - aligned - bytes);
  return reinterpret_cast<void*>(aligned);
}

// Moves a mapping to where its huge pages fit, which the kernel does not care for:
// it would break them up, and move them page by page. Null when refused.
void* move_huge_pages(void* address, size_t old_bytes, size_t new_bytes) {
  size_t slack = kHugePageBytes + new_bytes;
  void* reserved = ::mmap(nullptr, slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  uintptr_t start = reinterpret_cast<uintptr_t>(reserved);
  uintptr_t target = start + (reinterpret_cast<uintptr_t>(address) - start) % kHugePageBytes;
  void* moved = ::mremap(address, old_bytes, new_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(target));
  if (moved == MAP_FAILED) {
    ::munmap(reserved, slack);
    return nullptr;
  }
  if (target > start) ::munmap(reserved, target - start);
  ::munmap(reinterpret_cast<void*>(target + new_bytes), start + slack - target - new_bytes);
  return moved;
}

void* resize(void* address, size_t old_bytes, size_t new_bytes) {
  if (new_bytes > old_bytes && old_bytes >= kHugePageBytes) {
    if (::mremap(address, old_bytes, new_bytes, 0) == address) return address;
    if (void* moved = move_huge_pages(address, old_bytes, new_bytes); moved != nullptr) return moved;
  }
  void* moved = ::mremap(address, old_bytes, new_bytes, MREMAP_MAYMOVE);
  return moved == MAP_FAILED ? nullptr : moved;
}

}  // namespace

void* LinuxMemory::reserve(size_t bytes, size_t alignment, uintptr_t hint) {
  KeepErrno keep;
  void* address = map_aligned(bytes, alignment, hint, PROT_NONE, MAP_NORESERVE);
  if (address == nullptr) return nullptr;
  // A kernel that backs every mapping with huge pages would make each small
  // process 2 MiB larger.
  ::madvise(address, bytes, MADV_NOHUGEPAGE);
  // A reservation of many GiB has no place in a core dump; commit() undoes it.
  ::madvise(address, bytes, MADV_DONTDUMP);
  return address;
}

bool LinuxMemory::commit(void* address, size_t bytes) {
  KeepErrno keep;
  if (::mprotect(address, bytes, PROT_READ | PROT_WRITE) != 0) return false;
  ::madvise(address, bytes, MADV_DODUMP);
  HAKMEM_PROBE2(0, hakmem, map, address, bytes);
  return true;
}

bool LinuxMemory::allow_reading(void* address, size_t bytes) {
  KeepErrno keep;
  return ::mprotect(address, bytes, PROT_READ) == 0;
}

bool LinuxMemory::purge(void* address, size_t bytes) {
  KeepErrno keep;
  return ::madvise(address, bytes, MADV_DONTNEED) == 0;
}

void LinuxMemory::allow_huge_pages(void* address, size_t bytes, bool allowed) {
  KeepErrno keep;
  ::madvise(address, bytes, allowed ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

void LinuxMemory::populate(void* address, size_t bytes) {
  KeepErrno keep;
  ::madvise(address, bytes, kPopulateWrite);
}

bool LinuxMemory::guard(void* address, size_t bytes) {
  KeepErrno keep;
  if (guard_kind.load(std::memory_order_relaxed) != GuardKind::kProtected) {
    bool is_installed = ::madvise(address, bytes, kGuardInstall) == 0;
    if (guard_kind.load(std::memory_order_relaxed) == GuardKind::kInstalled) return is_installed;
    guard_kind.store(is_installed ? GuardKind::kInstalled : GuardKind::kProtected, std::memory_order_relaxed);
    if (is_installed) return true;
  }
  if (protected_guards.load(std::memory_order_relaxed) == kMostProtectedGuards) return false;
  if (::mprotect(address, bytes, PROT_NONE) != 0) return false;
  protected_guards.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void LinuxMemory::unguard(void* address, size_t bytes) {
  KeepErrno keep;
  if (guard_kind.load(std::memory_order_relaxed) == GuardKind::kInstalled) {
    ::madvise(address, bytes, kGuardRemove);
    return;
  }
  ::madvise(address, bytes, MADV_DONTNEED);
  ::mprotect(address, bytes, PROT_READ | PROT_WRITE);
  protected_guards.fetch_sub(1, std::memory_order_relaxed);
}

void LinuxMemory::release(void* address, size_t bytes) {
  KeepErrno keep;
  ::munmap(address, bytes);
  HAKMEM_PROBE2(0, hakmem, unmap, address, bytes);
}

void* LinuxMemory::map(size_t bytes, size_t alignment) {
  KeepErrno keep;
  void* address = map_aligned(bytes, alignment, 0, PROT_READ | PROT_WRITE, 0);
  if (address != nullptr) HAKMEM_PROBE2(0, hakmem, map, address, bytes);
  return address;
}

bool LinuxMemory::map_at(void* address, size_t bytes) {
  KeepErrno keep;
  void* mapped = ::mmap(address, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return false;
  if (mapped == address) {
    ::madvise(address, bytes, MADV_NOHUGEPAGE);
    HAKMEM_PROBE2(0, hakmem, map, address, bytes);
    return true;
  }
  ::munmap(mapped, bytes);  // a kernel before 4.17 takes the address for a hint
  return false;
}

void* LinuxMemory::remap(void* address, size_t old_bytes, size_t new_bytes) {
  KeepErrno keep;
  void* moved = resize(address, old_bytes, new_bytes);
  if (moved == nullptr) return nullptr;
  HAKMEM_PROBE2(0, hakmem, unmap, address, old_bytes);
  HAKMEM_PROBE2(0, hakmem, map, moved, new_bytes);
  return moved;
}

size_t LinuxMemory::address_space_limit() {
  KeepErrno keep;
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
  return limit.rlim_cur;
}

}  // namespace hakmem
