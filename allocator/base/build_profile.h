// The one place where a build becomes C++: every other file of allocator/ asks
// `kBuild` with `if constexpr` and has no preprocessor condition about builds.
#pragma once

#ifndef HAKMEM_BUILD_RELEASE
#define HAKMEM_BUILD_RELEASE 0
#endif
#ifndef HAKMEM_BUILD_DEBUG
#define HAKMEM_BUILD_DEBUG 0
#endif
#ifndef HAKMEM_HARDENED
#define HAKMEM_HARDENED 0
#endif

namespace hakmem {

struct BuildProfile {
  const char* name;
  bool stats;         // slow-path counters, sampling countdown, hooks for telemetry
  bool assertions;    // HAKMEM_ASSERT, is_consistent() at state changes, lock ranks
  bool exact_counts;  // every malloc and free counted (what derived figures are tested against)
  bool is_hardened;   // all of mitigations.h
};

#if HAKMEM_HARDENED
inline constexpr BuildProfile kBuild{"hardened", false, false, false, true};
#elif HAKMEM_BUILD_RELEASE
inline constexpr BuildProfile kBuild{"release", false, false, false, false};
#elif HAKMEM_BUILD_DEBUG
inline constexpr BuildProfile kBuild{"debug", true, true, true, false};
#else
inline constexpr BuildProfile kBuild{"telemetry", true, false, false, false};
#endif

}  // namespace hakmem
