// measure [--preload=LIBRARY] [--result-fd=N] -- PROGRAM [ARGUMENT]...
//
// Runs one program, preloaded with one allocator, and writes what it cost as
// one line of JSON. A program of its own and not a part of the Python runner:
// the kernel carries the peak RSS of the forking process over exec, so the
// parent has to be smaller than anything that is measured.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kCannotExec = 127;

double seconds_now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

[[noreturn]] void usage() {
  std::fputs("usage: measure [--preload=LIBRARY] [--result-fd=N] -- PROGRAM [ARGUMENT]...\n", stderr);
  std::exit(2);
}

[[noreturn]] void run_child(const char* preload, char** command, int result_fd) {
  // Whoever kills the measurement ends the program too.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  fcntl(result_fd, F_SETFD, FD_CLOEXEC);
  if (preload != nullptr) {
    setenv("LD_PRELOAD", preload, 1);
  } else {
    unsetenv("LD_PRELOAD");
  }
  execvp(command[0], command);
  std::fprintf(stderr, "measure: %s: %s\n", command[0], std::strerror(errno));
  _exit(kCannotExec);
}

}  // namespace

int main(int argc, char** argv) {
  const char* preload = nullptr;
  int result_fd = STDERR_FILENO;
  int i = 1;
  for (; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strncmp(argv[i], "--preload=", 10) == 0) {
      preload = argv[i] + 10;
    } else if (std::strncmp(argv[i], "--result-fd=", 12) == 0) {
      result_fd = std::atoi(argv[i] + 12);
    } else {
      usage();
    }
  }
  if (i + 1 >= argc) usage();
  char** command = argv + i + 1;

  double start = seconds_now();
  pid_t child = fork();
  if (child < 0) {
    std::perror("measure: fork");
    return 2;
  }
  if (child == 0) run_child(preload, command, result_fd);
  int status = 0;
  rusage usage{};
  while (wait4(child, &status, 0, &usage) < 0) {
    if (errno == EINTR) continue;
    std::perror("measure: wait4");
    return 2;
  }
  double wall = seconds_now() - start;

  int exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  dprintf(result_fd,
          R"({"exit_status":%d,"signal":%d,"wall_seconds":%.6f,"user_seconds":%.6f,"sys_seconds":%.6f,)"
          R"("peak_rss_bytes":%ld,"minor_faults":%ld,"major_faults":%ld,"voluntary_switches":%ld,)"
          R"("involuntary_switches":%ld})"
          "\n",
          exit_status, signal, wall, seconds(usage.ru_utime), seconds(usage.ru_stime), usage.ru_maxrss * 1024,
          usage.ru_minflt, usage.ru_majflt, usage.ru_nvcsw, usage.ru_nivcsw);
  return 0;
}
