#include "allocator/platform/process.h"

#include <sys/syscall.h>
#include <unistd.h>

// Both are what the C++ runtime and libc's own static part call; they have kept
// one symbol version since glibc 2.18 and 2.3.2.
extern "C" {
extern void* __dso_handle;  // NOLINT(bugprone-reserved-identifier)
int __cxa_thread_atexit_impl(void (*function)(void*), void* argument,
                             void* dso);  // NOLINT(bugprone-reserved-identifier)
int __register_atfork(void (*prepare)(), void (*parent)(), void (*child)(),
                      void* dso);  // NOLINT(bugprone-reserved-identifier)
}

namespace hakmem {

void register_thread_exit(void (*at_exit)(void*)) {
  // Runs before the destructors of thread-specific keys, so those find an ended
  // thread. The object that is passed is not used.
  __cxa_thread_atexit_impl(at_exit, nullptr, &__dso_handle);
}

bool is_first_thread() { return ::syscall(SYS_gettid) == ::syscall(SYS_getpid); }

void register_fork_handlers(void (*prepare)(), void (*parent)(), void (*child)()) {
  __register_atfork(prepare, parent, child, &__dso_handle);
}

}  // namespace hakmem
