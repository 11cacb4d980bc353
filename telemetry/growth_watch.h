// Watches which call sites of the heap profile keep growing (telemetry/growth.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "telemetry/profile_figures.h"

namespace hakmem::telemetry {

// Ends a window when it is due at `now`, by CLOCK_MONOTONIC in nanoseconds. The serving thread,
// every now and then.
void watch_growth(uint64_t now);

// The suspects as of the last window, those that have grown most first, at most `capacity`;
// how many. Any thread.
size_t copy_suspects(SiteFigures* sites, size_t capacity);

}  // namespace hakmem::telemetry
