// Preloaded before everything else: a malloc in which a call that a test chooses fails, alone or with all that follow,
// and which counts the blocks that live. It is told, and tells, in a file that the test maps too.
//
//     LD_PRELOAD=scarce_malloc.so SCARCE_MALLOC=FILE program
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace {

// As scarce_test.py reads it.
struct Control {
  std::atomic<int64_t> left;        // calls until one fails, which makes it 0; never, where it is below
  std::atomic<int64_t> is_lasting;  // all that follow fail, too
  std::atomic<int64_t> calls;
  std::atomic<int64_t> blocks;
};
constinit Control none{-1, 0, 0, 0};
constinit Control* control = &none;

[[gnu::constructor]] void begin() {
  const char* path = getenv("SCARCE_MALLOC");
  int fd = path != nullptr ? open(path, O_RDWR | O_CLOEXEC) : -1;
  void* shared = fd < 0 ? MAP_FAILED : mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (fd >= 0) close(fd);
  if (shared != MAP_FAILED) control = static_cast<Control*>(shared);
  free(nullptr);  // looked up now: a dlsym that frees what an earlier one left would come back here
}

// The function of this name that would be called otherwise.
template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool fails() {
  ++control->calls;
  int64_t left = control->left;
  bool is_now = left > 0 ? control->left-- == 1 : left == 0 && control->is_lasting != 0;
  if (is_now) errno = ENOMEM;
  return is_now;
}

void* counted(void* block) {
  if (block != nullptr) ++control->blocks;
  return block;
}

}  // namespace

extern "C" {

void* malloc(size_t bytes) {
  static auto* function = next<void*(size_t)>("malloc");
  return fails() ? nullptr : counted(function(bytes));
}
void* calloc(size_t count, size_t bytes) {
  static auto* function = next<void*(size_t, size_t)>("calloc");
  return fails() ? nullptr : counted(function(count, bytes));
}
void* realloc(void* block, size_t bytes) {
  static auto* function = next<void*(void*, size_t)>("realloc");
  if (block == nullptr) return malloc(bytes);
  return fails() ? nullptr : function(block, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  static auto* function = next<void*(size_t, size_t)>("aligned_alloc");
  return fails() ? nullptr : counted(function(alignment, bytes));
}
int posix_memalign(void** block, size_t alignment, size_t bytes) {
  void* made = aligned_alloc(alignment, bytes);
  if (made != nullptr) *block = made;
  return made != nullptr ? 0 : ENOMEM;
}
void free(void* block) {
  static auto* function = next<void(void*)>("free");
  if (block != nullptr) --control->blocks;
  function(block);
}

}  // extern "C"

// A library of hakmem in the process has these, too; all other forms call them.
void* operator new(size_t bytes) {
  void* block = malloc(bytes);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void operator delete(void* block) noexcept { free(block); }
void operator delete(void* block, size_t) noexcept { free(block); }
