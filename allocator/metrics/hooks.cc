// Not part of the release library.
#include "allocator/metrics/heap_view.h"

namespace hakmem::metrics {

constinit Hooks hooks{nullptr, nullptr};

}  // namespace hakmem::metrics
