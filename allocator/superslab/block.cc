#include "allocator/superslab/block.h"

namespace hakmem {

constinit uint64_t link_secret = 0x9E3779B97F4A7C15u;
constinit uint64_t free_key = 0xD1B54A32D192ED03u;

}  // namespace hakmem
