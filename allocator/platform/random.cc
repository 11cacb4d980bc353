#include "allocator/platform/random.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "allocator/platform/clock.h"

namespace hakmem {

uint64_t random_secret() {
  int saved_errno = errno;
  uint64_t secret = 0;
  if (::syscall(SYS_getrandom, &secret, sizeof secret, GRND_NONBLOCK) != static_cast<long>(sizeof secret)) {
    secret = (ticks() ^ reinterpret_cast<uintptr_t>(&secret)) * 0x9E3779B97F4A7C15u;
    secret ^= monotonic_nanoseconds() << 20;
  }
  errno = saved_errno;
  return secret;
}

}  // namespace hakmem
