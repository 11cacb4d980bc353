// The publisher: walks the heap view, asks the kernel what is resident, and
// stores the figures of the moment in the stats page.
#pragma once

#include <cstdint>

#include "allocator/metrics/heap_view.h"
#include "telemetry/process_account.h"
#include "telemetry/stats_page.h"

namespace hakmem::telemetry {

// The serving thread's stack is telemetry's. Before the thread starts.
void set_serving_stack(uintptr_t address, size_t bytes);
// In a forked child: what was known of the parent.
void forget_parent();

// Measures and stores. One thread at a time; takes no lock of the allocator and
// allocates nothing through it. Returns the number of thread caches.
uint32_t publish(const metrics::HeapView& view, PageHeader* page, Depth depth);

// How many nanoseconds the last walk of each depth took.
struct PublishCost {
  uint64_t heap;
  uint64_t process;  // of the part beyond the heap
};
PublishCost publish_cost();

}  // namespace hakmem::telemetry
