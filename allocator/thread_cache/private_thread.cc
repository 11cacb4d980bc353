#include "allocator/thread_cache/private_thread.h"

#include "allocator/base/message.h"

namespace hakmem {

constinit PrivateHeap<LinuxMemory> private_heap;

bool leave_program() {
  if (thread_state.phase != ThreadPhase::kNew || !private_heap.open()) return false;
  thread_state.phase = ThreadPhase::kPrivate;
  return true;
}

void* allocate_private(size_t bytes, size_t alignment) {
  return is_private_thread() ? private_heap.allocate(bytes, alignment) : nullptr;
}

void free_private(void* address) {
  if (!private_heap.free(address)) report_misuse(Message::kInvalidPointer, address);
}

size_t private_bytes(const void* address) {
  size_t bytes = private_heap.usable_bytes(address);
  if (bytes == 0) report_misuse(Message::kInvalidPointer, address);
  return bytes;
}

}  // namespace hakmem
