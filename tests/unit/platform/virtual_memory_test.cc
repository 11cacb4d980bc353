#include "allocator/platform/virtual_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "allocator/base/bits.h"
#include "tests/unit/support/build.h"
#include "tests/unit/support/older_kernel.h"

namespace hakmem {
namespace {

uintptr_t address_of(void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// Whether the kernel can read `address` on our behalf: asked by a write(2), which a fault does not end.
bool is_readable(const void* address) {
  int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  int pipe_ends[2];
  EXPECT_EQ(::pipe(pipe_ends), 0);
  bool readable = ::write(pipe_ends[1], address, 1) == 1;
  ::close(null);
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  return readable;
}

TEST(LinuxMemory, ReservedAddressesHaveNoAccess) {
  constexpr size_t kBytes = 8 * kMiB;
  void* reserved = LinuxMemory::reserve(kBytes, 2 * kMiB, 0);
  ASSERT_NE(reserved, nullptr);
  EXPECT_EQ(address_of(reserved) % (2 * kMiB), 0u);
  auto* bytes = static_cast<char*>(reserved);
  EXPECT_FALSE(is_readable(bytes));
  EXPECT_FALSE(is_readable(bytes + kBytes - 1));
  ASSERT_TRUE(LinuxMemory::commit(bytes + 2 * kMiB, 2 * kMiB));
  EXPECT_FALSE(is_readable(bytes + 2 * kMiB - 1));
  EXPECT_FALSE(is_readable(bytes + 4 * kMiB));
  for (size_t offset = 2 * kMiB; offset < 4 * kMiB; offset += kPageBytes) ASSERT_EQ(bytes[offset], 0);
  bytes[2 * kMiB] = bytes[4 * kMiB - 1] = 1;
  LinuxMemory::release(reserved, kBytes);
  EXPECT_FALSE(is_readable(bytes + 2 * kMiB));
}

TEST(LinuxMemory, PurgedPagesReadAsZeroes) {
  void* reserved = LinuxMemory::reserve(kMiB, kPageBytes, 0);
  ASSERT_NE(reserved, nullptr);
  ASSERT_TRUE(LinuxMemory::commit(reserved, kMiB));
  auto* bytes = static_cast<volatile char*>(reserved);
  for (size_t offset = 0; offset < kMiB; offset += 512) bytes[offset] = 7;
  ASSERT_TRUE(LinuxMemory::purge(static_cast<char*>(reserved) + 64 * kKiB, 128 * kKiB));
  for (size_t offset = 0; offset < kMiB; offset += 512) {
    bool purged = offset >= 64 * kKiB && offset < 192 * kKiB;
    ASSERT_EQ(bytes[offset], purged ? 0 : 7) << offset;
  }
  unsigned char resident[32] = {};
  ASSERT_EQ(::mincore(static_cast<char*>(reserved) + 64 * kKiB, 32 * kPageBytes, resident), 0);
  LinuxMemory::release(reserved, kMiB);
}

constexpr uint32_t kGuardInstall = 102;  // of madvise, since Linux 6.13
constexpr int kAdvice = 2, kProtection = 2;

// Each such guard makes two mappings more, so there is an end to them.
TEST(LinuxMemory, AKernelWithoutGuardsHasSomeOfProtectedPages) {
  test::without_calls({{SYS_madvise, kAdvice, kGuardInstall, EINVAL}}, [] {
    constexpr size_t kMost = 8192;
    constexpr size_t kBytes = (2 * kMost + 3) * kPageBytes;
    auto* content = static_cast<char*>(LinuxMemory::map(kBytes, kPageBytes));
    ASSERT_NE(content, nullptr);
    auto page = [content](size_t number) { return content + (2 * number + 1) * kPageBytes; };
    *page(0) = *(page(0) - 1) = *(page(0) + kPageBytes) = 1;
    errno = 99;
    for (size_t i = 0; i < kMost; ++i) ASSERT_TRUE(LinuxMemory::guard(page(i), kPageBytes)) << i;
    EXPECT_FALSE(LinuxMemory::guard(page(kMost), kPageBytes));
    EXPECT_EQ(errno, 99);
    for (size_t i : {size_t{0}, size_t{1}, kMost - 1}) EXPECT_FALSE(is_readable(page(i))) << i;
    EXPECT_TRUE(is_readable(page(kMost)));
    EXPECT_EQ(*(page(0) - 1) + *(page(0) + kPageBytes), 2);
    errno = 99;
    LinuxMemory::unguard(page(0), kPageBytes);
    EXPECT_EQ(errno, 99);
    EXPECT_EQ(*page(0), 0) << "as a guard of the kernel's would leave it";
    *page(0) = 1;
    EXPECT_TRUE(LinuxMemory::guard(page(kMost), kPageBytes)) << "in the place of the one that is no more";
    EXPECT_FALSE(is_readable(page(kMost)));
    LinuxMemory::release(content, kBytes);
  });
}

TEST(LinuxMemory, APageThatCannotBeGuardedStaysAsItIs) {
  test::without_calls({{SYS_madvise, kAdvice, kGuardInstall, EINVAL}, {SYS_mprotect, kProtection, PROT_NONE, ENOMEM}},
                      [] {
                        auto* content = static_cast<char*>(LinuxMemory::map(kPageBytes, kPageBytes));
                        ASSERT_NE(content, nullptr);
                        *content = 1;
                        EXPECT_FALSE(LinuxMemory::guard(content, kPageBytes));
                        EXPECT_EQ(*content, 1);
                        LinuxMemory::release(content, kPageBytes);
                      });
}

TEST(LinuxMemory, AGuardedPageIsWithoutAccessUntilItIsNoMore) {
  auto* content = static_cast<char*>(LinuxMemory::map(3 * kPageBytes, kPageBytes));
  ASSERT_NE(content, nullptr);
  content[0] = content[kPageBytes] = content[2 * kPageBytes] = 1;
  errno = 99;
  ASSERT_TRUE(LinuxMemory::guard(content + kPageBytes, kPageBytes));
  EXPECT_EQ(errno, 99);
  EXPECT_FALSE(is_readable(content + kPageBytes));
  EXPECT_EQ(content[0] + content[2 * kPageBytes], 2);
  ASSERT_TRUE(LinuxMemory::purge(content, 3 * kPageBytes));
  EXPECT_FALSE(is_readable(content + kPageBytes)) << "purged with its neighbours, it is guarded still";
  errno = 99;
  LinuxMemory::unguard(content + kPageBytes, kPageBytes);
  EXPECT_EQ(errno, 99);
  EXPECT_EQ(content[kPageBytes], 0);
  content[kPageBytes] = 1;
  LinuxMemory::release(content, 3 * kPageBytes);
}

TEST(LinuxMemory, MapsAtAnyAlignment) {
  for (size_t alignment = kPageBytes; alignment <= 64 * kMiB; alignment *= 4)
    for (size_t bytes : {kPageBytes, 3 * kPageBytes, kMiB + kPageBytes}) {
      void* mapped = LinuxMemory::map(bytes, alignment);
      ASSERT_NE(mapped, nullptr);
      EXPECT_EQ(address_of(mapped) % alignment, 0u) << alignment << " " << bytes;
      auto* content = static_cast<char*>(mapped);
      EXPECT_EQ(content[0] + content[bytes - 1], 0);
      content[0] = content[bytes - 1] = 1;
      LinuxMemory::release(mapped, bytes);
      EXPECT_FALSE(is_readable(content));
    }
}

TEST(LinuxMemory, RemapKeepsTheContent) {
  constexpr size_t kSmall = 4 * kPageBytes, kLarge = 32 * kMiB;
  auto* content = static_cast<char*>(LinuxMemory::map(kSmall, kPageBytes));
  ASSERT_NE(content, nullptr);
  for (size_t i = 0; i < kSmall; ++i) content[i] = static_cast<char>(i * 31);
  content = static_cast<char*>(LinuxMemory::remap(content, kSmall, kLarge));
  ASSERT_NE(content, nullptr);
  for (size_t i = 0; i < kSmall; ++i) ASSERT_EQ(content[i], static_cast<char>(i * 31));
  for (size_t i = kSmall; i < kLarge; i += kPageBytes) ASSERT_EQ(content[i], 0);
  content = static_cast<char*>(LinuxMemory::remap(content, kLarge, kPageBytes));
  ASSERT_NE(content, nullptr);
  for (size_t i = 0; i < kPageBytes; ++i) ASSERT_EQ(content[i], static_cast<char>(i * 31));
  EXPECT_FALSE(is_readable(content + kPageBytes));
  LinuxMemory::release(content, kPageBytes);
}

// Where it may not be moved to a place of our choice, the kernel chooses.
TEST(LinuxMemory, RemapWithoutAChoiceOfThePlace) {
  constexpr uint32_t kFlags = 3;
  test::without_calls({{SYS_mremap, kFlags, MREMAP_MAYMOVE | MREMAP_FIXED, ENOMEM}}, [] {
    constexpr size_t kSmall = 2 * kHugePageBytes, kLarge = 5 * kHugePageBytes;
    // With something right behind it.
    auto* content = static_cast<char*>(LinuxMemory::map(kSmall + kPageBytes, kHugePageBytes));
    ASSERT_NE(content, nullptr);
    for (size_t i = 0; i < kSmall; i += kPageBytes) content[i] = static_cast<char>(i / kPageBytes);
    auto* moved = static_cast<char*>(LinuxMemory::remap(content, kSmall, kLarge));
    ASSERT_NE(moved, nullptr);
    EXPECT_NE(moved, content);
    for (size_t i = 0; i < kSmall; i += kPageBytes) ASSERT_EQ(moved[i], static_cast<char>(i / kPageBytes));
    moved[kLarge - 1] = 1;
    LinuxMemory::release(moved, kLarge);
  });
}

// Else the kernel breaks huge pages up when it moves them.
TEST(LinuxMemory, RemapMovesToWhereHugePagesFit) {
  constexpr size_t kSmall = 3 * kHugePageBytes;
  constexpr size_t kLarge = kSmall + kHugePageBytes + kPageBytes;
  auto* content = static_cast<char*>(LinuxMemory::map(kSmall, kHugePageBytes));
  ASSERT_NE(content, nullptr);
  LinuxMemory::release(content, kPageBytes);
  content += kPageBytes;
  for (size_t i = 0; i < kSmall - kPageBytes; i += kPageBytes) content[i] = static_cast<char>(i / kPageBytes);
  // Right behind it, so that it cannot grow in place.
  void* end = content + kSmall - kPageBytes;
  void* barrier = ::mmap(end, kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_TRUE(barrier == end || errno == EEXIST);
  auto* moved = static_cast<char*>(LinuxMemory::remap(content, kSmall - kPageBytes, kLarge));
  ASSERT_NE(moved, nullptr);
  EXPECT_NE(moved, content);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(moved) % kHugePageBytes, kPageBytes);
  for (size_t i = 0; i < kSmall - kPageBytes; i += kPageBytes) ASSERT_EQ(moved[i], static_cast<char>(i / kPageBytes));
  moved[kLarge - 1] = 1;
  EXPECT_FALSE(is_readable(moved + kLarge));
  LinuxMemory::release(moved, kLarge);
  if (barrier == end) LinuxMemory::release(barrier, kPageBytes);
}

TEST(LinuxMemory, RefusalsAreValuesAndKeepErrno) {
  constexpr size_t kTooMuch = size_t{1} << 62;
  errno = 99;
  EXPECT_EQ(LinuxMemory::reserve(kTooMuch, kPageBytes, 0), nullptr);
  EXPECT_EQ(LinuxMemory::map(kTooMuch, kPageBytes), nullptr);
  void* mapped = LinuxMemory::map(kPageBytes, kPageBytes);
  ASSERT_NE(mapped, nullptr);
  EXPECT_EQ(LinuxMemory::remap(mapped, kPageBytes, kTooMuch), nullptr);
  *static_cast<char*>(mapped) = 1;  // nothing changed
  LinuxMemory::release(mapped, kPageBytes);
  EXPECT_FALSE(LinuxMemory::commit(mapped, kPageBytes));
  EXPECT_FALSE(LinuxMemory::purge(mapped, kPageBytes));
  LinuxMemory::address_space_limit();
  EXPECT_EQ(errno, 99);
}

TEST(LinuxMemory, TellsTheAddressSpaceLimit) {
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    rlimit limit{};
    ::getrlimit(RLIMIT_AS, &limit);
    if (limit.rlim_cur == RLIM_INFINITY && LinuxMemory::address_space_limit() != SIZE_MAX) ::_exit(1);
    limit.rlim_cur = 64 * kGiB;
    if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(2);
    ::_exit(LinuxMemory::address_space_limit() == 64 * kGiB ? 0 : 3);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace hakmem
