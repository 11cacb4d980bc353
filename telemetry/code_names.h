// Which function and file an address of code is in, for reports from a handler of
// signals: from /proc/self/maps and the file's symbol table, without the loader.
#pragma once

#include <cstdint>

#include "allocator/base/message.h"

namespace hakmem::telemetry {

// Appends " in FUNCTION+0xN (FILE+0xADDRESS)", the address as addr2line wants it; without
// the function where the file has no name for it, nothing where /proc cannot be read.
// C++ names are as the linker has them. One thread at a time; allocates nothing, takes no lock.
void name_code(uintptr_t address, LineBuffer* line);

}  // namespace hakmem::telemetry
