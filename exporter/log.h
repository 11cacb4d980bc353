// What the exporter has to say, on stderr, by spdlog.
#pragma once

#include <spdlog/logger.h>

namespace hakmem::exporter {

// The logger; made at the first call and never destroyed, as threads may log
// while the process ends. At most ten lines in any minute, and none once the
// host has closed the stderr it had when the logger was made: the descriptor
// may be a file of the host's by then.
spdlog::logger& logger();

}  // namespace hakmem::exporter
