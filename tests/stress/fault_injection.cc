// The kernel refuses memory at every point of a workload: for every n its n-th
// call for memory, and all calls from the n-th on. Each refusal is reported as
// the standard says, what was allocated keeps its content, and when memory comes
// back every allocation succeeds again.
//
// The program's own mmap, mprotect and mremap stand before libc's for hakmem,
// too. Each n runs in a process of its own, so that the first call of all is one
// of them.
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <new>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace {

std::atomic<long> calls{0};
std::atomic<long> first_refused{-1};  // -1: before the arguments are read
std::atomic<long> last_refused{0};

// Before main() only the environment can tell; the loader has set it by then.
void read_range() {
  const char* text = getenv("REFUSED_CALLS");
  long first = 0;
  long last = 0;
  if (text != nullptr) {
    char* end = nullptr;
    first = strtol(text, &end, 10);
    last = *end == '-' ? strtol(end + 1, nullptr, 10) : first;
  }
  last_refused.store(last);
  first_refused.store(first);
}

bool is_refused() {
  if (first_refused.load() < 0) read_range();
  long number = calls.fetch_add(1) + 1;
  if (number < first_refused.load() || number > last_refused.load()) return false;
  errno = ENOMEM;
  return true;
}

// Whether a sanitizer has not begun yet: it asks for memory itself then, and nothing of ours may run.
bool is_too_early = stress::kSanitized;

void* refusing_mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset);
int refusing_mprotect(void* address, size_t bytes, int protection);
void* refusing_mremap(void* address, size_t old_bytes, size_t new_bytes, int flags);

}  // namespace

#define HAKMEM_NOT_CHECKED __attribute__((no_sanitize("thread", "address", "undefined")))

extern "C" {
// A sanitizer's own of these, which knows by them what is mapped.
[[gnu::weak]] void* __interceptor_mmap(void*, size_t, int, int, int, off_t);  // NOLINT(bugprone-reserved-identifier)
[[gnu::weak]] int __interceptor_mprotect(void*, size_t, int);                 // NOLINT(bugprone-reserved-identifier)

HAKMEM_NOT_CHECKED void* mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) noexcept {
  if (!is_too_early) return refusing_mmap(address, bytes, protection, flags, fd, offset);
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, bytes, protection, flags, fd, offset));
}
HAKMEM_NOT_CHECKED int mprotect(void* address, size_t bytes, int protection) noexcept {
  if (!is_too_early) return refusing_mprotect(address, bytes, protection);
  return static_cast<int>(syscall(SYS_mprotect, address, bytes, protection));
}
HAKMEM_NOT_CHECKED void* mremap(void* address, size_t old_bytes, size_t new_bytes, int flags, ...) noexcept {
  if (!is_too_early) return refusing_mremap(address, old_bytes, new_bytes, flags);
  return reinterpret_cast<void*>(syscall(SYS_mremap, address, old_bytes, new_bytes, flags));
}
}

namespace {

void* refusing_mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (is_refused()) return MAP_FAILED;
  if (__interceptor_mmap != nullptr) return __interceptor_mmap(address, bytes, protection, flags, fd, offset);
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, bytes, protection, flags, fd, offset));
}
int refusing_mprotect(void* address, size_t bytes, int protection) {
  if (is_refused()) return -1;
  if (__interceptor_mprotect != nullptr) return __interceptor_mprotect(address, bytes, protection);
  return static_cast<int>(syscall(SYS_mprotect, address, bytes, protection));
}
void* refusing_mremap(void* address, size_t old_bytes, size_t new_bytes, int flags) {
  if (is_refused()) return MAP_FAILED;
  return reinterpret_cast<void*>(syscall(SYS_mremap, address, old_bytes, new_bytes, flags));
}

}  // namespace

namespace stress {
namespace {

constexpr size_t kBlocks = 100;
constexpr int kSteps = 200;
constexpr uint32_t kMaxLog2 = 21;

// Calls for memory before main().
long calls_before_main = 0;

struct Held {
  void* block;
  size_t size;
  uint64_t tag;
};

// Who was refused memory before main() has none that an exception could be thrown
// in: the C++ runtime sets it aside there, or calls std::terminate.
void* allocate_new(size_t size) {
  if (first_refused.load() <= calls_before_main && first_refused.load() != 0) return malloc(size);
  try {
    return ::operator new(size);
  } catch (const std::bad_alloc&) {
    errno = ENOMEM;
    return nullptr;
  }
}

void* allocate_in_some_way(uint64_t way, size_t size) {
  void* block = nullptr;
  switch (way % 6) {
    case 0: return calloc(1, size);
    case 1: return aligned_alloc(size_t{16} << way / 6 % 14, size);
    case 2: return allocate_new(size);
    case 3: errno = posix_memalign(&block, size_t{8} << way / 6 % 10, size); return block;
    default: return malloc(size);
  }
}

// Counts the allocations that failed.
struct Workload {
  explicit Workload(uint64_t seed) : random(seed) {}

  void let_go(Held& held) {
    if (held.block == nullptr) return;
    check_content(held.block, held.size, held.tag);
    free(held.block);
    held.block = nullptr;
  }

  void resize(Held& held, size_t size) {
    errno = 0;
    void* moved = realloc(held.block, size);
    if (moved == nullptr) {
      CHECK_OP(errno, ==, ENOMEM);
      ++failures;
      return;  // the block is as it was
    }
    size_t kept = size < held.size ? size : held.size;
    if (kept <= kDenseBytes) check_content(moved, kept, held.tag);
    held.block = moved;
    held.size = size;
    fill_content(moved, size, held.tag);
  }

  void step() {
    Held& held = blocks[random.below(kBlocks)];
    size_t size = random.log_uniform_size(kMaxLog2);
    if (held.block != nullptr && random.below(3) == 0) return resize(held, size);
    let_go(held);
    errno = 0;
    held = {allocate_in_some_way(random.next(), size), size, random.next()};
    if (held.block == nullptr) {
      CHECK_OP(errno, ==, ENOMEM);
      ++failures;
      return;
    }
    fill_content(held.block, held.size, held.tag);
  }

  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
  }

  void end() {
    for (Held& held : blocks) let_go(held);
  }

  Random random;
  Held blocks[kBlocks] = {};
  size_t failures = 0;
};

void* run_in_thread(void*) {
  static Workload workload(2);
  workload.run(kSteps / 3);
  workload.end();
  return nullptr;
}

int run_once() {
  calls_before_main = calls.load();
  static Workload workload(1);
  workload.run(kSteps);
  pthread_t thread;  // which may not be had
  if (pthread_create(&thread, nullptr, run_in_thread, nullptr) == 0) pthread_join(thread, nullptr);
  workload.run(kSteps);
  long called = calls.load();

  first_refused.store(0);
  last_refused.store(0);
  workload.failures = 0;
  workload.run(kSteps);
  CHECK_OP(workload.failures, ==, size_t{0});
  CHECK(pthread_create(&thread, nullptr, run_in_thread, nullptr) == 0);
  pthread_join(thread, nullptr);
  workload.end();
  dprintf(1, "%ld\n", called);
  return 0;
}

long run_with(const char* refused) {
  if (refused == nullptr)
    unsetenv("REFUSED_CALLS");
  else
    setenv("REFUSED_CALLS", refused, 1);
  ChildResult result = run_self("once");
  check_exited_cleanly(refused != nullptr ? refused : "nothing refused", result);
  return strtol(result.output, nullptr, 10);
}

}  // namespace
}  // namespace stress

int main(int argument_count, char**) {
  using namespace stress;
  is_too_early = false;
  if (argument_count > 1) return run_once();
  if (!require_hakmem()) return 77;
  long called = run_with(nullptr);
  CHECK_OP(called, >, 20L);
  // Each of the first, where the heap is set up; then every few.
  int runs = 0;
  for (long n = 1; n <= called; n += n < (kSanitized ? 4 : 16) ? 1 : 1 + called / 12) {
    char text[64];
    snprintf(text, sizeof text, "%ld", n);
    run_with(text);
    snprintf(text, sizeof text, "%ld-%ld", n, LONG_MAX);
    run_with(text);
    runs += 2;
  }
  printf("%ld calls for memory, %d runs\n", called, runs);
  return passed("fault injection");
}
