#include "allocator/platform/process.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>

// The C++ runtime's and libc's own static part call the second; it and the
// first have kept these symbol versions since glibc 2.2.5 and 2.3.2. The first
// stands in another library before 2.34: there it is absent in a process
// without threads, which is as well.
extern "C" {
extern void* __dso_handle;  // NOLINT(bugprone-reserved-identifier)
[[gnu::weak]] int hakmem_key_create(pthread_key_t* key, void (*destructor)(void*));
[[gnu::weak]] int hakmem_setspecific(pthread_key_t key, const void* value);
int __register_atfork(void (*prepare)(), void (*parent)(), void (*child)(),
                      void* dso);  // NOLINT(bugprone-reserved-identifier)
}
__asm__(".symver hakmem_key_create, pthread_key_create@GLIBC_2.2.5");
__asm__(".symver hakmem_setspecific, pthread_setspecific@GLIBC_2.2.5");

namespace hakmem {
namespace {

constinit pthread_key_t exit_key = 0;
constinit bool has_exit_key = false;
using Callback = void (*)();
constinit Callback on_thread_exit = nullptr;

// A thread whose first call comes from a destructor itself, after the place of this key, is
// called one round later than the value says: a round is left for it, or its cache would stay
// taken, as it does where that call comes from a later round. The thread sanitizer ends its part of a thread in the
// last round.
#if defined(__SANITIZE_THREAD__)
constexpr uintptr_t kLastRound = PTHREAD_DESTRUCTOR_ITERATIONS - 2;
#else
constexpr uintptr_t kLastRound = PTHREAD_DESTRUCTOR_ITERATIONS - 1;
#endif

// The value of the key counts the rounds of destructors. Before the last of
// them it only asks for another one, so that other keys' destructors find a
// thread that is alive.
void end_of_round(void* value) {
  auto round = reinterpret_cast<uintptr_t>(value);
  if (round < kLastRound)
    hakmem_setspecific(exit_key, reinterpret_cast<void*>(round + 1));
  else
    on_thread_exit();
}

}  // namespace

void set_thread_exit(void (*at_exit)()) {
  on_thread_exit = at_exit;
  has_exit_key = hakmem_key_create != nullptr && hakmem_key_create(&exit_key, end_of_round) == 0;
}

void watch_thread_exit() {
  if (has_exit_key) hakmem_setspecific(exit_key, reinterpret_cast<void*>(uintptr_t{1}));
}

int current_processor() {
  int saved_errno = errno;
  int processor = sched_getcpu();
  errno = saved_errno;
  return processor;
}

void register_fork_handlers(void (*prepare)(), void (*parent)(), void (*child)()) {
  __register_atfork(prepare, parent, child, &__dso_handle);
}

}  // namespace hakmem
