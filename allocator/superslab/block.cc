#include "allocator/superslab/block.h"

#include "allocator/base/message.h"

namespace hakmem {

constinit Secrets secrets;
constinit const Block empty_block{0, 0};

void Block::corrupted() const { fail(Message::kCorruptedFreeList, reinterpret_cast<uintptr_t>(this)); }

}  // namespace hakmem
