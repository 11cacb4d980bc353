// Not part of the release library.
#include "allocator/metrics/heap_view.h"

namespace hakmem::metrics {

HAKMEM_STARTUP_DATA constinit Hooks hooks{};
constinit std::atomic<uint64_t> sample_interval_bytes{kDefaultSampleIntervalBytes};
constinit std::atomic<uint32_t> sample_doublings{0};
constinit std::atomic<bool> guards_samples{false};

}  // namespace hakmem::metrics
