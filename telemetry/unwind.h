// The stack of this thread, as return addresses: inside malloc, so without a lock,
// without an allocation and without the host's unwinder.
//
// The objects that the process started with cannot be unloaded: what .eh_frame says
// of an address in them is kept. For objects loaded later it is looked up each time,
// with the loader's own lock-free function (glibc 2.35); where there is none, the
// stack ends at their first frame. So it does in code without .eh_frame, which
// compilers at run time emit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

// Lists the objects that are loaded now. From a constructor; only the first call does anything.
void prepare_unwinding();

// Stores up to `limit` return addresses, innermost first, without those in this
// library; how many. 0 before prepare_unwinding(). Any thread, any time, also in a
// signal handler.
size_t capture_stack(uintptr_t* addresses, size_t limit);

}  // namespace hakmem::telemetry
