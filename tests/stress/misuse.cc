// Misuse that the allocator must notice at once: one line on stderr that starts
// with "hakmem: " and names the pointer, then SIGABRT. And what looks like misuse
// but is allowed, which must stay silent.
#include <malloc.h>
#include <sys/mman.h>

#include <atomic>
#include <new>
#include <string>
#include <thread>

#include "tests/stress/child.h"
#include "tests/stress/content.h"

namespace stress {
namespace {

void* mapped_page() {
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  return page;
}

// The pointer is printed first, by the child itself, so that the line can be
// held against it.
void announce(const void* pointer) { dprintf(1, "%p\n", pointer); }

void free_foreign(void* pointer) {
  announce(pointer);
  free(opaque(pointer));
}

template <class Free>
void free_twice(void* block, Free free_again) {
  announce(block);
  free(opaque(block));
  free_again(opaque(block));
}

char global_bytes[4096];
char* data_address() { return global_bytes + 64; }

struct Case {
  const char* name;
  void (*run)();
};

const Case kForeign[] = {
    {"free of a stack address",
     [] {
       char bytes[256];
       free_foreign(opaque(&bytes[0]) + 16);
     }},
    {"free of a global", [] { free_foreign(data_address()); }},
    {"free of code", [] { free_foreign(reinterpret_cast<void*>(&mapped_page)); }},
    {"free of a page mapped by the program", [] { free_foreign(mapped_page()); }},
    {"free of a small integer", [] { free_foreign(reinterpret_cast<void*>(opaque(uintptr_t{0x10}))); }},
    {"free of an unmapped address",
     [] {
       void* page = mapped_page();
       munmap(page, 4096);
       free_foreign(page);
     }},
    {"free of a kernel address", [] { free_foreign(reinterpret_cast<void*>(opaque(uintptr_t{0xffff800000001000}))); }},
    {"free of a non-canonical address",
     [] { free_foreign(reinterpret_cast<void*>(opaque(uintptr_t{0x7fff000000000000 | 0x0123000000000010}))); }},
    {"free of all ones", [] { free_foreign(reinterpret_cast<void*>(opaque(~uintptr_t{0} - 15))); }},
    {"realloc of a stack address",
     [] {
       char bytes[256];
       announce(opaque(&bytes[0]));
       free(realloc(opaque(&bytes[0]), 1000));
     }},
    {"operator delete of a global",
     [] {
       announce(data_address());
       ::operator delete(opaque(static_cast<void*>(data_address())));
     }},
    {"sized operator delete of a global",
     [] {
       announce(data_address());
       ::operator delete(opaque(static_cast<void*>(data_address())), 64);
     }},
    {"free of a foreign pointer in a thread that never allocated",
     [] {
       pthread_t thread;
       pthread_create(
           &thread, nullptr,
           [](void*) -> void* {
             free_foreign(data_address());
             return nullptr;
           },
           nullptr);
       pthread_join(thread, nullptr);
     }},
};

const Case kDoubleFrees[] = {
    {"double free, 16 bytes", [] { free_twice(malloc(16), free); }},
    {"double free, 100 bytes", [] { free_twice(malloc(100), free); }},
    {"double free, 1,000 bytes", [] { free_twice(malloc(1000), free); }},
    {"double free, 8 KiB", [] { free_twice(malloc(8 * kKiB), free); }},
    {"double free, 100 KiB", [] { free_twice(malloc(100 * kKiB), free); }},
    {"double free, 700 KiB", [] { free_twice(malloc(700 * kKiB), free); }},
    {"double free, 64 MiB", [] { free_twice(malloc(64 * kMiB), free); }},
    {"double free of an aligned block", [] { free_twice(aligned_alloc(4096, 3000), free); }},
    {"double delete", [] { free_twice(::operator new(48), [](void* block) { ::operator delete(block); }); }},
    {"double sized delete", [] { free_twice(::operator new(48), [](void* block) { ::operator delete(block, 48); }); }},
    {"double free among others",
     [] {
       void* blocks[50];
       for (void*& block : blocks) block = malloc(64);
       for (size_t i = 0; i < 50; i += 2) free(blocks[i]);
       free_twice(blocks[25], free);
     }},
    {"double free by another thread",
     [] {
       void* block = malloc(200);
       announce(block);
       std::thread([block] {
         free(opaque(block));
         free(opaque(block));
       }).join();
     }},
    {"double free, first by its owner and then by another thread",
     [] {
       void* block = malloc(200);
       announce(block);
       free(opaque(block));
       std::thread([block] { free(opaque(block)); }).join();
     }},
};

void check_misuse(const Case& misuse) {
  ChildResult result = run_in_child(
      [&] {
        misuse.run();
        return 0;
      },
      20);
  // First line: the pointer. Second line: what the allocator says. No third line.
  const char* first_end = strchr(result.output, '\n');
  bool right = result.ended_by(SIGABRT) && first_end != nullptr;
  if (right) {
    const char* line = first_end + 1;
    const char* line_end = strchr(line, '\n');
    char pointer[32] = {};
    memcpy(pointer, result.output, static_cast<size_t>(first_end - result.output) & 31);
    right = strncmp(line, "hakmem: ", 8) == 0 && line_end != nullptr && line_end[1] == '\0' &&
            strstr(line, pointer) != nullptr;
  }
  if (right) return;
  dprintf(2, "%s: wait status 0x%x, output:\n%s\n", misuse.name, result.status, result.output);
  abort();
}

void check_allowed() {
  ChildResult result = run_in_child([] {
    free(opaque<void*>(nullptr));
    ::operator delete(opaque<void*>(nullptr));
    ::operator delete[](opaque<void*>(nullptr), 16);
    ::operator delete (opaque<void*>(nullptr), std::align_val_t{64});
    CHECK(malloc_usable_size(opaque<void*>(nullptr)) == 0);
    // A block may look just like one that was freed: content copied back into it
    // is the program's own affair.
    for (size_t size : {size_t{16}, size_t{64}, size_t{500}, 3 * kKiB}) {
      for (int round = 0; round < 200; ++round) {
        auto* block = static_cast<char*>(malloc(size));
        std::string freed;
        auto* twin = static_cast<char*>(malloc(size));
        free(twin);
        // What a freed block holds is read only to write it into a live one.
        freed.assign(opaque(twin), size);
        memcpy(block, freed.data(), size);
        free(block);
      }
    }
    return 0;
  });
  check_exited_cleanly("allowed calls", result);
  CHECK(result.output[0] == '\0');
}

}  // namespace
}  // namespace stress

int main() {
  using namespace stress;
  if (!require_hakmem()) return 77;
  check_allowed();
  for (const Case& misuse : kForeign) check_misuse(misuse);
  for (const Case& misuse : kDoubleFrees) check_misuse(misuse);
  return passed("misuse");
}
