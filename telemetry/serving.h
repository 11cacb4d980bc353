// The embedded endpoint's side in the telemetry library: a thread of our own
// that loads the exporter module, only when HAKMEM_LISTEN asks for it.
#pragma once

#include "allocator/base/assert.h"
#include "telemetry/control.h"

namespace hakmem::telemetry {

// Whether the endpoint answers, or would by a request.
EndpointState endpoint_state();

// Stops the endpoint, or starts it again, within a second; nothing where there is none.
void want_endpoint(bool on);

// Starts the thread when the environment asks for an endpoint in this program.
// Once, from a constructor.
HAKMEM_COLD void start_serving();

// Whether the thread will soon need a page, and will say so where it gets none.
bool endpoint_is_coming();

// In a forked child: closes the parent's sockets and remembers whether the
// parent served. Async-signal-safe.
void leave_serving_to_parent();

// The process ends: the module answers no more.
HAKMEM_COLD void stop_serving();

}  // namespace hakmem::telemetry
