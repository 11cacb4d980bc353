// Running a part of a test in a process of its own: forked, or this same
// program started again with another argument.
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/stress/check.h"

namespace stress {

struct ChildResult {
  int status = 0;          // as of waitpid
  char output[8192] = {};  // stdout and stderr together, cut at the end

  bool exited_with(int code) const { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
  bool ended_by(int signal) const { return WIFSIGNALED(status) && WTERMSIG(status) == signal; }
};

inline int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
  return status;
}

// Runs `body` in a forked child that is ended by SIGALRM after `seconds`, and
// collects what it writes. `body` returns the exit status.
template <class Body>
ChildResult run_in_child(Body body, unsigned seconds = 30) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  fflush(nullptr);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(seconds);
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    int code = body();
    fflush(nullptr);
    _exit(code);
  }
  close(ends[1]);
  ChildResult result;
  size_t length = 0;
  for (;;) {
    char spill[512];
    bool room = length < sizeof result.output - 1;
    ssize_t got = room ? read(ends[0], result.output + length, sizeof result.output - 1 - length)
                       : read(ends[0], spill, sizeof spill);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (room) length += static_cast<size_t>(got);
  }
  close(ends[0]);
  result.status = wait_for(child);
  return result;
}

// Starts this program again with one argument, optionally under RLIMIT_AS
// (0: no limit). The environment, and so the preload, is inherited.
inline ChildResult run_self(const char* argument, size_t address_space_limit = 0, unsigned seconds = 30) {
  return run_in_child(
      [=] {
        if (address_space_limit != 0) {
          rlimit limit{address_space_limit, address_space_limit};
          CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        }
        execl("/proc/self/exe", program_invocation_short_name, argument, static_cast<char*>(nullptr));
        return 127;
      },
      seconds);
}

inline void check_exited_cleanly(const char* what, const ChildResult& result) {
  if (result.exited_with(0)) return;
  dprintf(2, "%s: wait status 0x%x, output:\n%s\n", what, result.status, result.output);
  abort();
}

// Runs one part of a program in a child, and shows what it says: free memory that a part
// leaves would hide what the next one takes.
template <class Part>
void run_part(Part part) {
  ChildResult result = run_in_child(
      [part] {
        part();
        return 0;
      },
      300);
  check_exited_cleanly("a part", result);
  printf("%s", result.output);
}

}  // namespace stress
