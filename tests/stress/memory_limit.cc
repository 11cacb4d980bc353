// Memory runs out: every function reports it as the standard says, nothing
// crashes, and after frees allocation works again. Run under RLIMIT_AS from the
// start (an allocator's reservations have to fit, too) and with the limit set
// while the program runs.
#include <sys/resource.h>

#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

constexpr unsigned kSeconds = 100;                 // a busy machine takes its time
constexpr size_t kNeverReached = size_t{2} << 30;  // more than any limit of this test

// A chain of blocks, so that the test itself needs no other memory.
struct Link {
  Link* next;
  size_t size;
};

struct Chain {
  Link* head = nullptr;
  size_t bytes = 0;
  size_t count = 0;

  // Both ends hold content that is checked; to write all of it would take most of the time.
  static size_t marked(size_t size) { return size < 256 ? size - 16 - sizeof(Link) : 200; }

  bool extend(size_t size) {
    auto* link = static_cast<Link*>(malloc(size));
    if (link == nullptr) return false;
    fill_content(link + 1, marked(size), size + count);
    fill_content(reinterpret_cast<char*>(link) + size - 16, 16, size + count);
    *link = {head, size};
    head = link;
    bytes += size;
    ++count;
    return true;
  }

  // Every seventh block is freed after all others, so that it pins its slab.
  void release() {
    Link* kept = nullptr;
    for (size_t index = count; head != nullptr;) {
      Link* link = head;
      head = link->next;
      --index;
      check_content(link + 1, marked(link->size), link->size + index);
      check_content(reinterpret_cast<char*>(link) + link->size - 16, 16, link->size + index);
      if (index % 7 != 0) {
        free(link);
      } else {
        link->next = kept;
        kept = link;
      }
    }
    while (kept != nullptr) {
      Link* next = kept->next;
      free(kept);
      kept = next;
    }
    *this = {};
  }
};

size_t fill_up(size_t size) {
  Chain chain;
  errno = 0;
  while (chain.extend(size)) CHECK_OP(chain.bytes, <, kNeverReached);
  CHECK_OP(errno, ==, ENOMEM);
  // Still full, whatever is asked for, and small requests may go either way.
  for (int i = 0; i < 100; ++i) {
    errno = 0;
    CHECK(malloc(opaque(kNeverReached)) == nullptr);
    CHECK_OP(errno, ==, ENOMEM);
    CHECK(calloc(1, opaque(kNeverReached)) == nullptr);
    CHECK(realloc(nullptr, opaque(kNeverReached)) == nullptr);
    CHECK(aligned_alloc(4096, opaque(kNeverReached)) == nullptr);
    void* untouched = &untouched;
    CHECK(posix_memalign(&untouched, 4096, opaque(kNeverReached)) == ENOMEM);
    CHECK(untouched == &untouched);
    free(malloc(100));
  }
  size_t bytes = chain.bytes;
  chain.release();
  return bytes;
}

// Under a limit from exec: most of it can be used, in any size, again and again.
int under_limit(size_t limit) {
  static const size_t kSizes[] = {48, 200, 1500, 7000, 40 * kKiB, 200 * kKiB, 1100 * kKiB, 5 * kMiB};
  for (int round = limit <= 64 * kMiB ? 0 : 1; round < 2; ++round)
    for (size_t size : kSizes) CHECK_OP(fill_up(size), >=, limit / 4);
  // realloc that fails keeps the block.
  void* block = malloc(kMiB);
  CHECK(block != nullptr);
  fill_content(block, kMiB, 3);
  CHECK(realloc(block, opaque(kNeverReached)) == nullptr);
  check_content(block, kMiB, 3);
  free(block);
  return 0;
}

// Threads that run into the limit together.
int threads_under_limit() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      Random random(static_cast<uint64_t>(i));
      for (int round = 0; round < 6; ++round) {
        Chain chain;
        while (chain.extend(random.log_uniform_size(17) + 64)) CHECK_OP(chain.bytes, <, kNeverReached);
        chain.release();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// The handler frees what stands in the way, and the request succeeds after all.
char* reserve_block;
int handler_calls;
void free_the_reserve() {
  ++handler_calls;
  free(reserve_block);
  reserve_block = nullptr;
  std::set_new_handler(nullptr);
}

int operator_new_under_limit(size_t limit) {
  size_t half = limit / 20 * 11;  // a little more than half: it fits once, not twice
  reserve_block = static_cast<char*>(malloc(half));
  CHECK(reserve_block != nullptr);
  memset(reserve_block, 1, half);
  std::set_new_handler(free_the_reserve);
  auto* block = static_cast<char*>(::operator new(opaque(half)));
  CHECK(block != nullptr);
  memset(block, 2, half);
  CHECK_OP(handler_calls, ==, 1);
  CHECK(reserve_block == nullptr);
  // Without a handler: bad_alloc, and nullptr from the nothrow form.
  for (int i = 0; i < 50; ++i) {
    bool thrown = false;
    try {
      ::operator delete(::operator new(opaque(half)));
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    CHECK(thrown);
    CHECK(::operator new(opaque(half), std::nothrow) == nullptr);
    CHECK(::operator new[](opaque(half), std::align_val_t{4096}, std::nothrow) == nullptr);
  }
  ::operator delete(block);
  // Small objects until the end, in the way a program does it.
  std::vector<std::unique_ptr<char[]>> objects;
  bool thrown = false;
  try {
    for (size_t bytes = 0; bytes < kNeverReached; bytes += 3000) {
      objects.push_back(std::make_unique<char[]>(3000));
    }
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
  objects.clear();
  ::operator delete(::operator new(half / 2));
  return 0;
}

// The limit comes down on a running program. Reserved addresses may still serve
// small requests, so only what cannot fit has to fail.
void limit_on_a_running_program() {
  void* early[100];
  for (size_t i = 0; i < 100; ++i) early[i] = malloc(i * 1000 + 1);
  rlimit limit{};
  CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
  limit.rlim_cur = 1;  // no further mapping at all
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  Random random(99);
  void* blocks[2000] = {};
  for (size_t i = 0; i < 20000; ++i) {
    size_t slot = random.below(2000);
    free(blocks[slot]);
    size_t size = random.log_uniform_size(15);
    errno = 0;
    blocks[slot] = malloc(size);
    if (blocks[slot] == nullptr) {
      CHECK_OP(errno, ==, ENOMEM);
    } else {
      memset(blocks[slot], 1, size);
    }
  }
  // Huge requests need a mapping: they fail, all of them.
  for (int i = 0; i < 100; ++i) {
    errno = 0;
    CHECK(malloc(opaque(kNeverReached)) == nullptr);
    CHECK_OP(errno, ==, ENOMEM);
  }
  limit.rlim_cur = limit.rlim_max;
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  for (void* block : blocks) free(block);
  for (void* block : early) free(block);
  void* block = malloc(64 * kMiB);
  CHECK(block != nullptr);
  memset(block, 1, 64 * kMiB);
  free(block);
}

int run_mode(const char* mode) {
  rlimit limit{};
  CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
  if (strcmp(mode, "fill") == 0) return under_limit(limit.rlim_cur);
  if (strcmp(mode, "threads") == 0) return threads_under_limit();
  if (strcmp(mode, "new") == 0) return operator_new_under_limit(limit.rlim_cur);
  return 3;
}

}  // namespace
}  // namespace stress

int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  if (argc > 1) return run_mode(argv[1]);
  for (size_t limit : {64 * kMiB, 200 * kMiB}) {
    check_exited_cleanly("fill", run_self("fill", limit, kSeconds));
    check_exited_cleanly("new", run_self("new", limit, kSeconds));
  }
  check_exited_cleanly("threads", run_self("threads", 200 * kMiB, kSeconds));
  limit_on_a_running_program();
  return passed("memory_limit");
}
