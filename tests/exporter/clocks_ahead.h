// Clocks that are ahead of the machine's, for the exporter in the program of its tests.
#pragma once

#include <time.h>

namespace hakmem::exporter {

// In seconds; page_directory_test.cc has the clocks.
extern time_t real_ahead;
extern time_t boot_ahead;

}  // namespace hakmem::exporter
