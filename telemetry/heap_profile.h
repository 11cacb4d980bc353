// The heap profile: which stacks the live samples were allocated by, what these
// stacks allocated in all, and what they held when the heap was largest.
//
// Each sample is weighted when it is taken, so that sums are estimates of the whole.
// Everything stands in memory mapped for it alone, which never moves and is
// bounded: 2^18 live samples, 2^16 stacks, 2^21 addresses in them. What finds no place is counted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/metrics/heap_view.h"
#include "telemetry/profile_figures.h"

namespace hakmem::telemetry {

// Once, from a constructor: installs the hooks of samples and of fork.
void start_heap_profile();

// metrics::Hooks; errno is kept.
void on_sample(const metrics::Sample& sample);
void on_sample_free(const void* address);
void on_sample_resize(const void* old_address, const void* address, size_t requested, size_t allocated);

// In a forked child: keeps the live samples, which are the child's too. Where the fork
// handlers were bypassed while another thread changed the profile, begins anew.
void leave_profile_to_parent();

// What this thread allocates from now on is telemetry's own, and is in no profile.
void exclude_this_thread();

// Copies the sites, and the samples unless `samples` is null, as of one moment.
// Nothing is copied when there are more than fit: `totals` says how many. False when the
// profile cannot be had just now. Any thread.
bool copy_profile(SiteFigures* sites, size_t site_capacity, SampleFigures* samples, size_t sample_capacity,
                  ProfileTotals* totals);

// Of all samples that were freed. False when the profile cannot be had just now. Any thread.
bool copy_lifetimes(LifetimeFigures* result);

// Calls `visit` with every range that the profile has used of its mappings.
void visit_profile_mappings(void (*visit)(void*, uintptr_t address, size_t bytes), void* context);

}  // namespace hakmem::telemetry
