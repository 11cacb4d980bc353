// The same through operator new and delete, and what C++ programs do to end up there.
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tests/misuse/misuse.h"

#undef CASE_OF
#define CASE_OF(name, expected, when, hardened, hardened_when)                                                       \
  static void misuse_##name();                                                                                       \
  static constexpr misuse_case misuse_row_##name{#name, #expected, #when, #hardened, #hardened_when, misuse_##name}; \
  __attribute__((section("misuse_cases"), used)) static const misuse_case* const misuse_entry_##name =               \
      &misuse_row_##name;                                                                                            \
  static void misuse_##name()

namespace {

constexpr std::align_val_t kAlignment{64};
char data_bytes[4096];

template <class Free>
void delete_twice(void* block, Free free_it) {
  announce(block);
  free_it(hide(block));
  free_it(hide(block));
}

struct Base {
  char bytes[24];
};
struct Derived : Base {
  char more[600];
};

}  // namespace

CASE(double_delete, DOUBLE_FREE, NOW) {
  delete_twice(::operator new(48), [](void* block) { ::operator delete(block); });
}
CASE(double_delete_nothrow, DOUBLE_FREE, NOW) {
  delete_twice(::operator new(48, std::nothrow), [](void* block) { ::operator delete(block, std::nothrow); });
}
CASE(double_delete_sized, DOUBLE_FREE, NOW) {
  delete_twice(::operator new(48), [](void* block) { ::operator delete(block, 48); });
}
CASE(double_delete_array, DOUBLE_FREE, NOW) {
  delete_twice(::operator new[](48), [](void* block) { ::operator delete[](block); });
}
CASE(double_delete_aligned, DOUBLE_FREE, NOW) {
  delete_twice(::operator new(48, kAlignment), [](void* block) { ::operator delete(block, kAlignment); });
}
CASE(double_delete_aligned_array_sized, DOUBLE_FREE, NOW) {
  delete_twice(::operator new[](48, kAlignment), [](void* block) { ::operator delete[](block, 48, kAlignment); });
}
CASE(double_delete_500k, DOUBLE_FREE, NOW) {
  delete_twice(::operator new(500 * KIB), [](void* block) { ::operator delete(block); });
}
CASE(double_delete_5m, DOUBLE_FREE, NOW) {
  delete_twice(::operator new(5 * MIB), [](void* block) { ::operator delete(block); });
}
CASE(double_delete_of_an_object, DOUBLE_FREE, NOW) {
  auto* object = new Derived;
  announce(object);
  delete object;
  delete static_cast<Derived*>(hide(object));
}
CASE(double_delete_by_two_pointers, DOUBLE_FREE, NOW) {
  auto* object = new Base;
  announce(object);
  std::unique_ptr<Base> first(object);
  std::unique_ptr<Base> second(static_cast<Base*>(hide(object)));
}
CASE(double_delete_in_a_thread, DOUBLE_FREE, NOW) {
  auto* object = new Base;
  announce(object);
  std::thread([object] { delete object; }).join();
  delete static_cast<Base*>(hide(object));
}
CASE(free_then_delete, DOUBLE_FREE, NOW) {
  void* block = announce(malloc(48));
  free(block);
  ::operator delete(hide(block));
}
CASE(delete_then_free, DOUBLE_FREE, NOW) {
  void* block = announce(::operator new(48));
  ::operator delete(block);
  free(hide(block));
}
CASE(delete_data, FOREIGN, NOW) { ::operator delete(announce(data_bytes + 64)); }
CASE(delete_sized_data, FOREIGN, NOW) { ::operator delete(announce(data_bytes + 64), 64); }
CASE(delete_array_data, FOREIGN, NOW) { ::operator delete[](announce(data_bytes + 64)); }
CASE(delete_aligned_data, FOREIGN, NOW) { ::operator delete(announce(data_bytes + 64), kAlignment); }
CASE(delete_stack, FOREIGN, NOW) {
  Derived object{};
  delete static_cast<Derived*>(announce(&object));
}
CASE_INSIDE(delete_of_an_element) {
  auto* array = new Base[4]{};
  delete static_cast<Base*>(announce(array + 2));
}
// Such an array has its length before it.
CASE_INSIDE(delete_of_an_array) {
  auto* array = new std::string[3];
  delete static_cast<char*>(announce(array));
}
CASE_WRITTEN(write_after_delete) {
  void* block = announce(::operator new(64));
  ::operator delete(block);
  memset(hide(block), 0x41, 64);
  ::operator delete(::operator new(64));
}
CASE_WRITTEN(write_after_delete_then_aligned) {
  void* block = announce(::operator new(64));
  ::operator delete(block);
  memset(hide(block), 0x41, 64);
  ::operator delete(::operator new(64, kAlignment), kAlignment);
}
CASE_WRITTEN(write_through_an_invalid_iterator) {
  std::vector<long> numbers(8, 1);
  long* stale = numbers.data();
  announce(stale);
  numbers.push_back(2);
  *static_cast<long*>(hide(stale)) = 3;
  std::vector<long> others(8, 1);
}

// A size that the block cannot have been made with: the first sized delete of a thread is looked at in every build.
CASE(delete_sized_too_large, SIZE, NOW) { ::operator delete(announce(::operator new(100)), 200); }
CASE(delete_sized_too_small, SIZE, NOW) { ::operator delete(announce(::operator new(100)), 24); }
CASE(delete_sized_far_too_large, SIZE, NOW) { ::operator delete(announce(::operator new(100)), 5 * MIB); }
CASE(delete_sized_too_small_20k, SIZE, NOW) { ::operator delete(announce(::operator new(20 * KIB)), 5 * KIB); }
CASE(delete_sized_too_small_500k, SIZE, NOW) { ::operator delete(announce(::operator new(500 * KIB)), 100); }
CASE(delete_sized_too_small_5m, SIZE, NOW) { ::operator delete(announce(::operator new(5 * MIB)), 100 * KIB); }
CASE(delete_array_sized_too_small, SIZE, NOW) { ::operator delete[](announce(::operator new[](1000)), 100); }
CASE(delete_sized_of_malloc_too_large, SIZE, NOW) { ::operator delete(announce(malloc(100)), 300); }
// And an alignment.
CASE(delete_aligned_sized_too_large, SIZE, NOW) {
  ::operator delete(announce(::operator new(128, kAlignment)), 512, kAlignment);
}
CASE(delete_aligned_array_sized_too_small, SIZE, NOW) {
  ::operator delete[](announce(::operator new[](1024, kAlignment)), 64, kAlignment);
}
void* new_unaligned() {
  void* block = ::operator new(80);
  while ((uintptr_t)block % 64 == 0) block = ::operator new(80);  // of four neighbours one is aligned by chance
  return block;
}
CASE(delete_aligned_of_a_block_that_is_not, SIZE, NOW) { ::operator delete(announce(new_unaligned()), kAlignment); }
CASE(delete_aligned_sized_of_a_block_that_is_not, SIZE, NOW) {
  ::operator delete(announce(new_unaligned()), 80, kAlignment);
}
// Through a base that has no virtual destructor.
CASE(delete_of_a_derived_object_by_its_base, SIZE, NOW) {
  Base* object = static_cast<Base*>(announce(new Derived));
  delete object;
}

// Some of those that come later are looked at, too.
CASE(delete_of_many_derived_objects_by_their_base, SIZE, NOW) {
  delete new Derived;
  for (int i = 0; i < 2000; ++i) {
    Base* object = static_cast<Base*>(announce(new Derived));
    delete object;
  }
}

CASE(delete_with_right_sizes, NOTHING, NOW) {
  for (size_t bytes = 0; bytes < 3 * MIB; bytes += 1 + bytes / 7) {
    ::operator delete(::operator new(bytes), bytes);
    ::operator delete[](::operator new[](bytes, std::nothrow), bytes);
    for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 4) {
      std::align_val_t aligned{alignment};
      ::operator delete(::operator new(bytes, aligned), bytes, aligned);
      ::operator delete[](::operator new[](bytes, aligned), bytes, aligned);
      ::operator delete(::operator new(bytes, aligned), aligned);
    }
    std::thread([block = ::operator new(bytes), bytes] { ::operator delete(block, bytes); }).join();
  }
  for (int i = 0; i < 3000; ++i) delete new Derived;
}

CASE(delete_null, NOTHING, NOW) {
  ::operator delete(hide(nullptr));
  ::operator delete[](hide(nullptr), 16);
  ::operator delete(hide(nullptr), kAlignment);
  ::operator delete(hide(nullptr), 16, kAlignment);
}

int main(int argc, char** argv) { return misuse_main(argc, argv); }
