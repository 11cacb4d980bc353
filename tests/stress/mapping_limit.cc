// The kernel's limit of mappings (vm.max_map_count) is used up by the program:
// allocation fails as the standard says or succeeds with what hakmem has, frees
// work, and when mappings are given back everything does.
#include <sys/mman.h>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kCount = 3000;

struct Held {
  void* block;
  size_t size;
};
Held blocks[kCount];

size_t size_of(size_t i) { return i % 50 == 0 ? 3 * kMiB : i % 7 == 0 ? 40 * kKiB + i : 16 + i % 900; }

// How many could not be had.
size_t allocate_all() {
  size_t failures = 0;
  for (size_t i = 0; i < kCount; ++i) {
    errno = 0;
    blocks[i] = {malloc(size_of(i)), size_of(i)};
    if (blocks[i].block == nullptr) {
      CHECK_OP(errno, ==, ENOMEM);
      ++failures;
    } else {
      fill_content(blocks[i].block, blocks[i].size, i);
    }
  }
  return failures;
}

void free_all() {
  for (size_t i = 0; i < kCount; ++i) {
    if (blocks[i].block == nullptr) continue;
    check_content(blocks[i].block, blocks[i].size, i);
    free(blocks[i].block);
  }
}

// Protects every second page of a range until the kernel has no mapping left.
// Returns whether it came to that.
bool use_up_mappings(char* range, size_t pages) {
  for (size_t i = 0; i < pages; i += 2) {
    if (mprotect(range + i * kPage, kPage, PROT_READ) == 0) continue;
    CHECK_OP(errno, ==, ENOMEM);
    return true;
  }
  return false;
}

size_t most_mappings() {
  char text[32] = {};
  int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 65530;
  CHECK(read(fd, text, sizeof text - 1) > 0);
  close(fd);
  return strtoull(text, nullptr, 10);
}

int run(size_t pages) {
  void* range = mmap(nullptr, pages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(range != MAP_FAILED);
  CHECK(use_up_mappings(static_cast<char*>(range), pages));
  size_t failures = allocate_all();
  CHECK_OP(failures, >, size_t{0});
  free_all();
  allocate_all();
  free_all();
  CHECK(munmap(range, pages * kPage) == 0);
  CHECK_OP(allocate_all(), ==, size_t{0});
  free_all();
  return 0;
}

}  // namespace
}  // namespace stress

int main() {
  using namespace stress;
  if (!require_hakmem()) return 77;
  size_t most = most_mappings();
  if (most > 300'000) {
    printf("max_map_count is %zu, too large to be used up\n", most);
    return 77;
  }
  check_exited_cleanly("limit of mappings", run_in_child([most] { return run(most + 1000); }, 100));
  return passed("limit of mappings");
}
