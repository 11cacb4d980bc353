// Assertions of the debug build.
#pragma once

#include "allocator/base/build_profile.h"

namespace hakmem {

// Prints the place and the condition, then aborts. Only the debug build has it.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace hakmem

// Checked in builds with assertions; elsewhere neither evaluated nor compiled in.
#define HAKMEM_ASSERT(condition)                                                    \
  do {                                                                              \
    if constexpr (::hakmem::kBuild.assertions) {                                    \
      if (!(condition)) ::hakmem::assertion_failed(#condition, __FILE__, __LINE__); \
    }                                                                               \
  } while (false)

#define HAKMEM_COLD [[gnu::cold, gnu::noinline]]
// For the declaration of a variable that hot code reads: reached directly
// instead of through the global offset table.
#define HAKMEM_HIDDEN [[gnu::visibility("hidden")]]
// Of small variables that each process writes to as it starts: they stand on a page that
// the loader has written to before.
#define HAKMEM_STARTUP_DATA [[gnu::section(".data")]]
// Of large variables that are not zero: apart from the small ones, or these would be spread
// over many pages, each of which a process pays for as it starts.
#define HAKMEM_LARGE_DATA [[gnu::section("hakmem_large_data")]]
#define HAKMEM_INLINE [[gnu::always_inline]] inline
