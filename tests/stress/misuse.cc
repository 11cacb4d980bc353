// Misuse that the allocator must notice: exactly one line on stderr, in the words
// of the table of messages, with the pointer; then SIGABRT. And what looks like
// misuse but is allowed, which must stay silent.
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

// The messages, as users see them.
constexpr const char* kDoubleFree = "double free of";
constexpr const char* kForeignPointer = "not a pointer that hakmem allocated:";
constexpr const char* kInvalidPointer = "not the start of an allocated block:";
constexpr const char* kCorrupted = "corrupted free list, a freed block was written to:";

struct Case {
  const char* name;
  void (*run)();
  const char* message;
  // The memory may be gone by then, or be something else: any of the three will do.
  bool memory_may_be_gone = false;
};

const Case kForeign[] = {
    {"free of a stack address",
     [] {
       char bytes[256];
       free_foreign(opaque(&bytes[0]) + 16);
     },
     kForeignPointer},
    {"free of a global", [] { free_foreign(data_address()); }, kForeignPointer},
    {"free of code", [] { free_foreign(reinterpret_cast<void*>(&mapped_page)); }, kForeignPointer},
    {"free of a page mapped by the program", [] { free_foreign(mapped_page()); }, kForeignPointer},
    {"free of a small integer", [] { free_foreign(reinterpret_cast<void*>(opaque(uintptr_t{0x10}))); },
     kForeignPointer},
    {"free of an unmapped address",
     [] {
       void* page = mapped_page();
       munmap(page, 4096);
       free_foreign(page);
     },
     kForeignPointer},
    {"free of a kernel address", [] { free_foreign(reinterpret_cast<void*>(opaque(uintptr_t{0xffff800000001000}))); },
     kForeignPointer},
    {"free of a non-canonical address",
     [] { free_foreign(reinterpret_cast<void*>(opaque(uintptr_t{0x7fff000000000000 | 0x0123000000000010}))); },
     kForeignPointer},
    {"free of all ones", [] { free_foreign(reinterpret_cast<void*>(opaque(~uintptr_t{0} - 15))); }, kForeignPointer},
    {"realloc of a stack address",
     [] {
       char bytes[256];
       announce(opaque(&bytes[0]));
       free(realloc(opaque(&bytes[0]), 1000));
     },
     kForeignPointer},
    {"operator delete of a global",
     [] {
       announce(data_address());
       ::operator delete(opaque(static_cast<void*>(data_address())));
     },
     kForeignPointer},
    {"sized operator delete of a global",
     [] {
       announce(data_address());
       ::operator delete(opaque(static_cast<void*>(data_address())), 64);
     },
     kForeignPointer},
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
     },
     kForeignPointer},
};

const Case kDoubleFrees[] = {
    {"double free, 16 bytes", [] { free_twice(malloc(16), free); }, kDoubleFree},
    {"double free, 100 bytes", [] { free_twice(malloc(100), free); }, kDoubleFree},
    {"double free, 1,000 bytes", [] { free_twice(malloc(1000), free); }, kDoubleFree},
    {"double free, 8 KiB", [] { free_twice(malloc(8 * kKiB), free); }, kDoubleFree},
    {"double free, 100 KiB", [] { free_twice(malloc(100 * kKiB), free); }, kDoubleFree},
    {"double free, 700 KiB", [] { free_twice(malloc(700 * kKiB), free); }, kInvalidPointer, true},
    {"double free, 64 MiB", [] { free_twice(malloc(64 * kMiB), free); }, kForeignPointer, true},
    {"double free of an aligned block", [] { free_twice(aligned_alloc(4096, 3000), free); }, kDoubleFree},
    {"double delete", [] { free_twice(::operator new(48), [](void* block) { ::operator delete(block); }); },
     kDoubleFree},
    {"double sized delete", [] { free_twice(::operator new(48), [](void* block) { ::operator delete(block, 48); }); },
     kDoubleFree},
    {"double free among others",
     [] {
       void* blocks[50];
       for (void*& block : blocks) block = malloc(64);
       for (size_t i = 0; i < 50; i += 2) free(blocks[i]);
       free_twice(blocks[25], free);
     },
     kDoubleFree},
    {"double free by another thread",
     [] {
       void* block = malloc(200);
       announce(block);
       std::thread([block] {
         free(opaque(block));
         free(opaque(block));
       }).join();
     },
     kDoubleFree},
    {"double free, first by its owner and then by another thread",
     [] {
       void* block = malloc(200);
       announce(block);
       free(opaque(block));
       std::thread([block] { free(opaque(block)); }).join();
     },
     kDoubleFree},
    {"double free with another one in between",
     [] {
       void* block = malloc(300);
       void* other = malloc(300);
       announce(block);
       free(opaque(block));
       free(opaque(other));
       free(opaque(block));
     },
     kDoubleFree},
    {"double free by two other threads",
     [] {
       void* block = malloc(300);
       announce(block);
       std::thread([block] { free(opaque(block)); }).join();
       std::thread([block] { free(opaque(block)); }).join();
     },
     kDoubleFree, true},
    {"double free after all memory around it was freed and purged",
     [] {
       void* blocks[3000];
       for (void*& block : blocks) block = malloc(400);
       announce(blocks[1000]);
       for (void* block : blocks) free(block);
       malloc_trim(0);
       free(opaque(blocks[1000]));
     },
     kInvalidPointer, true},
    {"realloc of a freed block",
     [] {
       void* block = malloc(300);
       announce(block);
       free(opaque(block));
       free(realloc(opaque(block), 5000));
     },
     kDoubleFree},
    {"free inside a large block",
     [] {
       char* block = static_cast<char*>(malloc(700 * kKiB)) + 4096;
       announce(block);
       free(opaque(block));
     },
     kInvalidPointer},
    {"free inside a huge block",
     [] {
       char* block = static_cast<char*>(malloc(64 * kMiB)) + 4096;
       announce(block);
       free(opaque(block));
     },
     kForeignPointer, true},
};

// The list of freed blocks is encoded, so a write into one of them is noticed
// when it would be handed out. The line names the block, which we do not know.
void write_after_free() {
  void* blocks[50];
  for (void*& block : blocks) block = malloc(64);
  for (void* block : blocks) free(block);
  for (void* block : blocks) memset(opaque(block), 0x41, 16);
  for (int i = 0; i < 500; ++i) *static_cast<char*>(malloc(64)) = 1;
}

bool is_message(const char* line, const char* message, const char* pointer) {
  char expected[160];
  snprintf(expected, sizeof expected, "hakmem: %s %s\n", message, pointer);
  return strcmp(line, expected) == 0;
}

bool is_expected(const Case& misuse, const char* line, const char* pointer) {
  if (is_message(line, misuse.message, pointer)) return true;
  if (!misuse.memory_may_be_gone) return false;
  return is_message(line, kDoubleFree, pointer) || is_message(line, kForeignPointer, pointer) ||
         is_message(line, kInvalidPointer, pointer);
}

void check_misuse(const Case& misuse) {
  ChildResult result = run_in_child([&] {
    misuse.run();
    return 0;
  });
  // First line: the pointer. Second line: what the allocator says. No third line.
  char* line = strchr(result.output, '\n');
  if (line != nullptr) *line++ = '\0';
  if (line != nullptr && result.ended_by(SIGABRT) && is_expected(misuse, line, result.output)) return;
  dprintf(2, "%s: wait status 0x%x, pointer %s, said:\n%s\nexpected: %s\n", misuse.name, result.status, result.output,
          line, misuse.message);
  abort();
}

void check_write_after_free() {
  ChildResult result = run_in_child([] {
    write_after_free();
    return 0;
  });
  if (result.ended_by(SIGABRT) && strncmp(result.output, "hakmem: ", 8) == 0 &&
      strncmp(result.output + 8, kCorrupted, strlen(kCorrupted)) == 0)
    return;
  dprintf(2, "write after free: wait status 0x%x, output:\n%s\n", result.status, result.output);
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
  check_write_after_free();
  return passed("misuse");
}
