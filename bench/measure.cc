// measure [--preload=LIBRARY] [--result-fd=N] -- PROGRAM [ARGUMENT]...
//
// Runs one program, preloaded with one allocator, and writes what it cost as
// one line of JSON. A program of its own and not a part of the Python runner:
// the kernel carries the peak RSS of the forking process over exec, so the
// parent has to be smaller than anything that is measured.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
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

// Resident memory over time: point i is that of (i + 1) periods after the
// start. When the points are full every second one is dropped and the period
// doubles, so that a program of any length gives 64 to 127 of them and is
// disturbed ever less.
class ResidentCurve {
 public:
  double next_time() const { return (count_ + 1) * period_; }

  // 0 bytes: the main thread has ended and others have not, so nobody can tell.
  void add(long bytes) {
    if (bytes == 0 && count_ > 0) bytes = bytes_[count_ - 1];
    bytes_[count_++] = bytes;
    if (count_ < kMaxPoints) return;
    count_ /= 2;
    for (int i = 0; i < count_; ++i) bytes_[i] = bytes_[2 * i + 1];
    period_ *= 2;
  }

  void write(std::FILE* out) const {
    std::fprintf(out, R"("rss_period_seconds":%.3f,"rss_bytes":[)", period_);
    for (int i = 0; i < count_; ++i) std::fprintf(out, "%s%ld", i == 0 ? "" : ",", bytes_[i]);
    std::fputs("]", out);
  }

 private:
  static constexpr int kMaxPoints = 128;

  double period_ = 0.010;
  int count_ = 0;
  long bytes_[kMaxPoints];
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "measure: %s: %s\n", what, std::strerror(errno));
  std::exit(2);
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

// Text of a file of /proc; empty where it cannot be read.
struct ProcText {
  char text[4096] = "";

  ProcText(pid_t process, const char* file) {
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/%s", process, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t length = read(fd, text, sizeof text - 1);
    text[length > 0 ? length : 0] = '\0';
    close(fd);
  }
};

// Resident bytes of the process, 0 once it has ended, and the anonymous ones of
// its descendants: libraries and shared memory count once.
long resident_bytes(pid_t process, bool is_first = true) {
  long pages = 0;
  long shared = 0;
  std::sscanf(ProcText(process, "statm").text, "%*d %ld %ld", &pages, &shared);
  long bytes = (is_first ? pages : pages - shared) * sysconf(_SC_PAGESIZE);
  char file[64];
  std::snprintf(file, sizeof file, "task/%d/children", process);
  ProcText children(process, file);
  char* end = nullptr;
  for (char* at = children.text;; at = end) {
    long child = std::strtol(at, &end, 10);
    if (end == at) return bytes;
    bytes += resident_bytes(static_cast<pid_t>(child), false);
  }
}

// Returns when the child has ended, which it does not reap.
void watch(pid_t child, double start, ResidentCurve& curve) {
  // Not pidfd_open(): the header of glibc 2.36 declares it with C++ linkage.
  pollfd ended{static_cast<int>(syscall(SYS_pidfd_open, child, 0)), POLLIN, 0};
  if (ended.fd < 0) fail("pidfd_open");
  for (;;) {
    double wait = std::max(0.0, start + curve.next_time() - seconds_now());
    timespec timeout{.tv_sec = static_cast<time_t>(wait), .tv_nsec = static_cast<long>(std::fmod(wait, 1) * 1e9)};
    int ready = ppoll(&ended, 1, &timeout, nullptr);
    if (ready > 0) return;
    if (ready == 0)
      curve.add(resident_bytes(child));
    else if (errno != EINTR)
      fail("poll");
  }
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
  if (child < 0) fail("fork");
  if (child == 0) run_child(preload, command, result_fd);
  ResidentCurve curve;
  watch(child, start, curve);
  double wall = seconds_now() - start;
  int status = 0;
  rusage usage{};
  if (wait4(child, &status, 0, &usage) < 0) fail("wait4");

  int exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  std::FILE* out = fdopen(result_fd, "w");
  if (out == nullptr) fail("--result-fd");
  std::fprintf(out,
               R"({"exit_status":%d,"signal":%d,"wall_seconds":%.6f,"user_seconds":%.6f,"sys_seconds":%.6f,)"
               R"("peak_rss_bytes":%ld,"minor_faults":%ld,"major_faults":%ld,"voluntary_switches":%ld,)"
               R"("involuntary_switches":%ld,)",
               exit_status, signal, wall, seconds(usage.ru_utime), seconds(usage.ru_stime), usage.ru_maxrss * 1024,
               usage.ru_minflt, usage.ru_majflt, usage.ru_nvcsw, usage.ru_nivcsw);
  curve.write(out);
  std::fputs("}\n", out);
  return std::fclose(out) == 0 ? 0 : 2;
}
