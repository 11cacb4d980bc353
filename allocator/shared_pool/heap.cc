#include "allocator/shared_pool/heap.h"

namespace hakmem {

constinit Heap heap;

}  // namespace hakmem
