// Probes for tools outside the process (bpftrace, perf, OpenTelemetry's profiler):
// a nop, and a note in the file that says where it stands and where its arguments
// are then, as SystemTap defined it (https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation).
// On cold paths of the telemetry build alone. A probe whose arguments cost something has
// a semaphore: a counter in the process that tools raise while they listen.
#pragma once

#include <cstdint>
#include <type_traits>

#include "allocator/base/build_profile.h"

namespace hakmem {

inline constexpr bool kHasProbes = kBuild.stats && !kBuild.exact_counts;

// An argument of a probe.
template <class T>
inline uint64_t probe_word(T value) {
  if constexpr (std::is_pointer_v<T>)
    return reinterpret_cast<uintptr_t>(value);
  else
    return static_cast<uint64_t>(value);
}

}  // namespace hakmem

// Descriptor: address of the nop, of the base (by which tools see that the file was
// moved), of the semaphore or 0; then provider, name and "BYTES@PLACE" an argument.
#define HAKMEM_PROBE_NOTE(semaphore, provider, name, arguments)           \
  "990: nop\n"                                                            \
  ".pushsection .note.stapsdt,\"?\",\"note\"\n"                           \
  ".balign 4\n"                                                           \
  ".4byte 992f - 991f, 994f - 993f, 3\n"                                  \
  "991: .asciz \"stapsdt\"\n"                                             \
  "992: .balign 4\n"                                                      \
  "993: .8byte 990b\n"                                                    \
  ".8byte _.stapsdt.base\n"                                               \
  ".8byte " #semaphore                                                    \
  "\n"                                                                    \
  ".asciz \"" #provider                                                   \
  "\"\n"                                                                  \
  ".asciz \"" #name                                                       \
  "\"\n"                                                                  \
  ".asciz \"" arguments                                                   \
  "\"\n"                                                                  \
  "994: .balign 4\n"                                                      \
  ".popsection\n"                                                         \
  ".ifndef _.stapsdt.base\n"                                              \
  ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n" \
  ".weak _.stapsdt.base\n"                                                \
  ".hidden _.stapsdt.base\n"                                              \
  "_.stapsdt.base: .space 1\n"                                            \
  ".size _.stapsdt.base, 1\n"                                             \
  ".popsection\n"                                                         \
  ".endif\n"

#define HAKMEM_PROBE_ARGUMENT(value) "nr"(::hakmem::probe_word(value))
#define HAKMEM_PROBE(semaphore, provider, name, arguments, ...)                                  \
  do {                                                                                           \
    if constexpr (::hakmem::kHasProbes)                                                          \
      __asm__ volatile(HAKMEM_PROBE_NOTE(semaphore, provider, name, arguments) : : __VA_ARGS__); \
  } while (false)

// With a semaphore, or 0, and one to three arguments: pointers or unsigned numbers, each as 64 bits.
#define HAKMEM_PROBE1(semaphore, provider, name, a) \
  HAKMEM_PROBE(semaphore, provider, name, "8@%0", HAKMEM_PROBE_ARGUMENT(a))
#define HAKMEM_PROBE2(semaphore, provider, name, a, b) \
  HAKMEM_PROBE(semaphore, provider, name, "8@%0 8@%1", HAKMEM_PROBE_ARGUMENT(a), HAKMEM_PROBE_ARGUMENT(b))
#define HAKMEM_PROBE3(semaphore, provider, name, a, b, c)                                                       \
  HAKMEM_PROBE(semaphore, provider, name, "8@%0 8@%1 8@%2", HAKMEM_PROBE_ARGUMENT(a), HAKMEM_PROBE_ARGUMENT(b), \
               HAKMEM_PROBE_ARGUMENT(c))
