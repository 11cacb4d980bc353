// Not part of the release library: there nothing counts, so nothing stores.
#include "allocator/metrics/counters.h"

namespace hakmem::metrics {

constinit Slot initial_shard[kShardSlots]{};
constinit std::atomic<uint64_t> last_purge{0};
constinit CounterSink counter_sink{{initial_shard}, {0}};

}  // namespace hakmem::metrics
