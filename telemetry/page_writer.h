// The writer's side of the stats page: makes it late, lets it grow, moves the
// counters into it, and leaves it after a fork.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "telemetry/stats_page.h"

namespace hakmem::telemetry {

enum class PageHome : uint8_t {
  None,     // counters are in metrics::initial_shard
  File,     // a file that other processes can read
  Private,  // no file could be made, but the endpoint needs a page
  Refused,  // no file could be made; not tried again
};

// Everything here except for `counters_look_busy` is called by one thread at a
// time (the caller holds the transition flag of transitions.cc).

// Whether enough has happened for a page: 1 MiB of refills or allocations, by what is counted.
bool counters_look_busy();

// Makes the page and moves the counters into it. `report` says that the user
// asked for it, so that a failure gives one line on stderr; with
// `private_instead` a failure gives a page in private memory.
void create_page(bool report, bool private_instead);

// Lets the page grow to a shard for each thread and one for all, if there are not too many.
void grow_page(uint32_t threads);

// Moves on what was counted in the initial shard by threads that raced with the move.
void drain_initial_shard();

// In a forked child: leaves the parent's page alone and starts from zero.
void abandon_page();

// At a clean exit: removes the file.
HAKMEM_COLD void remove_page();

PageHome page_home();
PageHeader* page();  // null when there is none
size_t current_page_bytes();

// Calls `visit` with every mapping the telemetry holds in this process for pages.
void visit_page_mappings(void (*visit)(void*, uintptr_t address, size_t bytes), void* context);

}  // namespace hakmem::telemetry
