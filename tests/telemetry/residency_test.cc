// What is resident in the rest of a process, by kernels of different ages.
#include "telemetry/residency.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>

#include "tests/telemetry/in_child.h"

// Sanitizers have more addresses than the slower way asks for.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
namespace hakmem::telemetry {
namespace {

constexpr size_t kMiB = 1 << 20;
constexpr size_t kMappingBytes = 16 * kMiB;
constexpr double kTouchedMeanwhile = kMiB;  // for what the test itself touches in between

// A mapping of which every `step`th page is resident.
Range touched(size_t step) {
  void* mapped =
      mmap(nullptr, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT_NE(mapped, MAP_FAILED);
  madvise(mapped, kMappingBytes, MADV_NOHUGEPAGE);
  auto* bytes = static_cast<char*>(mapped);
  for (size_t page = 0; page < kMappingBytes; page += step * kKernelPageBytes) bytes[page] = 1;
  auto begin = reinterpret_cast<uintptr_t>(mapped);
  return {begin, begin + kMappingBytes};
}

RangeList list_of(Range range) {
  RangeList list;
  list.add(range.begin, range.end - range.begin);
  list.normalise();
  return list;
}

// As before Linux 6.7, from here on: no ioctl of type 'f' is known.
void refuse_page_scans() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff << _IOC_TYPESHIFT),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'f' << _IOC_TYPESHIFT, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{std::size(code), code};
  ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST(Residency, IsTheSameWhereTheKernelCannotScan) {
  ChildResult result = in_child({}, [] {
    RangeList ours = list_of(touched(1));
    RangeList telemetry = list_of(touched(4));
    touched(2);
    MappingAccount scanned;
    ASSERT_TRUE(account_for_mappings(ours, telemetry, &scanned));
    EXPECT_EQ(scanned.telemetry, kMappingBytes / 4);
    MappingAccount with_ours;
    ASSERT_TRUE(account_for_mappings(RangeList(), telemetry, &with_ours));
    EXPECT_NEAR(static_cast<double>(with_ours.outside - scanned.outside), kMappingBytes, kTouchedMeanwhile);
    EXPECT_NEAR(static_cast<double>(with_ours.outside + with_ours.telemetry),
                static_cast<double>(process_resident_bytes()), kTouchedMeanwhile);
    refuse_page_scans();
    MappingAccount listed;
    ASSERT_TRUE(account_for_mappings(ours, telemetry, &listed));
    EXPECT_EQ(listed.telemetry, scanned.telemetry);
    EXPECT_NEAR(static_cast<double>(listed.outside), static_cast<double>(scanned.outside), kTouchedMeanwhile);
  });
  EXPECT_EQ(result.status, 0) << result.error_text;
}

// Where it must not be called: any filter may end the process for it.
TEST(Residency, IsTheSameWithoutMincore) {
  ChildResult result = in_child({}, [] {
    const Range every = touched(1), some = touched(7);
    const uint64_t of_every = resident_bytes(every.begin, kMappingBytes, true);
    const uint64_t of_some = resident_bytes(some.begin, kMappingBytes, true);
    EXPECT_EQ(of_every, kMappingBytes);
    EXPECT_TRUE(may_ask_mincore());
    refuse_page_scans();
    EXPECT_FALSE(may_ask_mincore());
    EXPECT_EQ(resident_bytes(every.begin, kMappingBytes, false), of_every);
    EXPECT_EQ(resident_bytes(some.begin, kMappingBytes, false), of_some);
  });
  EXPECT_EQ(result.status, 0) << result.error_text;
}

// While the module is loaded the program may map what it likes, there and later.
TEST(Residency, CountsTheModuleAndNothingThatTheProgramMapsMeanwhile) {
  ChildResult result = in_child({}, [] {
    note_objects_before();
    int file = memfd_create("of the program", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(file, kMappingBytes), 0);
    void* mapped = mmap(nullptr, kMappingBytes, PROT_READ, MAP_PRIVATE, file, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    void* library = dlopen("libBrokenLocale.so.1", RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    note_objects_after();
    MappingAccount before;
    ASSERT_TRUE(account_for_mappings(RangeList(), RangeList(), &before));
    EXPECT_GT(before.telemetry, 0u);
    EXPECT_LT(before.telemetry, kMiB);
    void* again = mmap(mapped, kMappingBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0);
    ASSERT_EQ(again, mapped);
    MappingAccount after;
    ASSERT_TRUE(account_for_mappings(RangeList(), RangeList(), &after));
    EXPECT_EQ(after.telemetry, before.telemetry);
    EXPECT_NEAR(static_cast<double>(after.outside - before.outside), kMappingBytes, kTouchedMeanwhile);
  });
  EXPECT_EQ(result.status, 0) << result.error_text;
}

}  // namespace
}  // namespace hakmem::telemetry
#endif
