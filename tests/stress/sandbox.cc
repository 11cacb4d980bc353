// A service that is killed for system calls that services commonly may not make: systemd's
// set @system-service has no mincore(2), for one.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <thread>
#include <vector>

#include "tests/stress/check.h"

namespace stress {
namespace {

// Of what an allocator may want, that set lacks these.
constexpr long kMissing[] = {
    SYS_mincore,         SYS_move_pages,  SYS_migrate_pages, SYS_process_vm_readv, SYS_process_madvise, SYS_ptrace,
    SYS_perf_event_open, SYS_userfaultfd, SYS_bpf,           SYS_swapon,           SYS_syslog,          SYS_kcmp};

void enter_sandbox() {
  std::vector<sock_filter> program{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (long number : kMissing) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

void allocate_and_free(size_t bytes, size_t count) {
  std::vector<void*> blocks;
  for (size_t i = 0; i < count; ++i) {
    void* block = malloc(bytes);
    CHECK(block != nullptr);
    memset(opaque(block), 1, bytes);
    blocks.push_back(block);
  }
  for (size_t i = 0; i < count; i += 2) free(blocks[i]);
  malloc_trim(0);
  for (size_t i = 0; i < count; i += 2) blocks[i] = realloc(opaque(malloc(bytes)), bytes + bytes / 4);
  for (void* block : blocks) free(block);
}

void work() {
  for (size_t bytes : {size_t{16}, size_t{100}, 1 * kKiB, 24 * kKiB, 300 * kKiB, 3 * kMiB})
    allocate_and_free(bytes, 40 * kMiB / (bytes + 400));
}

}  // namespace
}  // namespace stress

int main() {
  if (!stress::require_hakmem()) return 1;
  stress::enter_sandbox();
  stress::work();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(stress::work);
  for (std::thread& thread : threads) thread.join();
  malloc_trim(0);
  return stress::passed("sandbox");
}
