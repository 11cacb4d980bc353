// A child for which the kernel refuses some calls, as an older one or a sandbox would.
#pragma once

#include <errno.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace hakmem::test {

struct RefusedCall {
  long number;     // SYS_...
  int argument;    // the call is refused where this one, from 0 on, has ...
  uint32_t value;  // ... this value; -1: always
  uint32_t error;  // errno
};

inline bool refuse_calls(std::initializer_list<RefusedCall> calls) {
  std::vector<sock_filter> program;
  auto load = [&](size_t offset) {
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
  };
  for (const RefusedCall& call : calls) {
    bool looks = call.argument >= 0;
    load(offsetof(seccomp_data, nr));
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call.number), 0,
                               static_cast<uint8_t>(looks ? 3 : 1)));
    if (looks) {
      load(offsetof(seccomp_data, args) + static_cast<size_t>(call.argument) * sizeof(uint64_t));
      program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.value, 0, 1));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | call.error));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// Runs `body` in a forked child to which the kernel refuses these calls; no expectation of it may fail.
template <class Body>
void without_calls(std::initializer_list<RefusedCall> calls, Body body) {
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    EXPECT_TRUE(refuse_calls(calls));
    body();
    fflush(stdout);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace hakmem::test
