// What a lock counts about itself in builds with statistics.
#pragma once

#include <cstdint>

namespace hakmem {

struct LockStatsView {
  uint64_t acquisitions;
  uint64_t waits;
  uint64_t wait_nanoseconds;
};

}  // namespace hakmem
