// What the exporter has to say, on stderr, by spdlog.
#pragma once

#include <initializer_list>
#include <string_view>

namespace hakmem::exporter {

enum class Level { kInfo, kWarning, kError };

// Says the parts, one after the other, in a line. At most ten lines in any minute,
// and none once the host has closed the stderr it had at the first call: the
// descriptor may be a file of the host's by then. The logger is never destroyed, as
// threads may log while the process ends. Here is nothing of spdlog's, whose
// headers take long to compile wherever they are named.
void log(Level level, std::initializer_list<std::string_view> parts);

}  // namespace hakmem::exporter
