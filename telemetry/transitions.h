// What telemetry does on the allocator's cold paths, and after a fork.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "telemetry/page_writer.h"

namespace hakmem::telemetry {

// Makes the page that tells a forked child from its parent even where fork
// handlers were bypassed; only the first call does anything. From a constructor, or
// by who has the page.
void prepare_fork_detection();

// metrics::Hooks: makes the page when it is time, publishes at most once a
// second and for at most 1 % of the time. Whether there was anything to do.
bool on_transition(size_t bytes);

// Publishes whatever the time, if there is a page.
void publish_now();

// metrics::Hooks: leaves the parent's page and starts from zero.
void on_fork_child();

// Whether this process is a child that did not go through on_fork_child.
bool forked_unnoticed();

// The right to touch the page and the publisher. try_ once, or wait for at most
// 100 ms; the holder never waits for anything itself.
bool try_acquire_page();
bool acquire_page();
void release_page();

// Does what `hakmem config` requested, as an idle process has no transitions, and
// reads what the last scrape did not wait for. For the serving thread.
void serve_beside_scrapes();

// Publishes everything for a scrape and makes on_transition hold back for a
// while. Null when there is no page. Where another thread has the page for more
// than 100 ms it is returned as of the last call. For the serving thread.
const PageHeader* refresh_page(size_t* bytes);

}  // namespace hakmem::telemetry
