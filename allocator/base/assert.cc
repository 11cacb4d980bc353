#include "allocator/base/assert.h"

#include <stdlib.h>

#include "allocator/base/message.h"

namespace hakmem {

void assertion_failed(const char* condition, const char* file, int line) {
  LineBuffer buffer;
  buffer.text("hakmem: assertion failed: ").text(condition).text(" at ").text(file).text(":");
  buffer.number(static_cast<uint64_t>(line)).text("\n").print();
  abort();
}

}  // namespace hakmem
