// The heap profile over HTTP, of the process that the module is in:
//
//   /debug/pprof/heap           what is live
//   /debug/pprof/allocs         what was allocated since the start
//   /debug/pprof/peak           what was live when the heap was largest
//   /debug/pprof/lifetimes      how long what was freed had been live
//   /debug/pprof/fragmentation  what of the free space of part-full slabs is pinned by whom
//
// `?seconds=N` gives the difference over that time; not of the peak.
#pragma once

#include <vector>

#include "exporter/routes.h"
#include "telemetry/module_interface.h"

namespace hakmem::exporter {

// `host` lives as long as the routes. The handlers throw Unavailable where there is no profile just now.
std::vector<Route> profile_routes(const telemetry::ModuleHost& host);

}  // namespace hakmem::exporter
