// What the telemetry library and the exporter module know of each other. Plain
// C types: the two are built with different C++ runtimes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "telemetry/profile_figures.h"

namespace hakmem::telemetry {

inline constexpr uint32_t kModuleInterface = 8;

// Handed to the module; lives as long as the process.
struct ModuleHost {
  uint32_t interface;
  uint32_t address;  // host byte order
  uint16_t port;
  const char* pages;      // directory of the stats pages
  const char* auth_file;  // holds what clients have to send; "" when anybody may ask

  // Measures everything now and returns the page; null when there is none. The
  // mapping stays readable for the life of the process.
  const void* (*refresh)(size_t* bytes);
  // The heap profile as of one moment: telemetry/heap_profile.h.
  bool (*copy_profile)(SiteFigures* sites, size_t site_capacity, SampleFigures* samples, size_t sample_capacity,
                       ProfileTotals* totals);
  bool (*copy_lifetimes)(LifetimeFigures* result);
  // Call sites that keep growing: telemetry/growth_watch.h.
  size_t (*copy_suspects)(SiteFigures* sites, size_t capacity);
  // The module opened or closed a socket, which a forked child must close.
  void (*socket_opened)(int fd);
  void (*socket_closed)(int fd);
  // Whether the endpoint answers: descendants then stay silent.
  void (*set_serving)(bool serving);
  // Whether an ancestor serves by now: then a port in use is no news.
  bool (*ancestor_serves)();
  // False once the process ends, in a forked child, or while the endpoint is
  // stopped by a request.
  bool (*may_serve)();
  // False in the first two cases: then descriptors may be others' already.
  bool (*is_alive)();
  // Writes one line: that there is no endpoint, and why. Allocates nothing.
  void (*complain)(const char* why);
};

// Serves until it cannot any more or may not; may be called again then. Called on a thread that has all signals
// blocked. Never throws.
using ModuleServe = void (*)(const ModuleHost*);
inline constexpr const char* kModuleServeName = "hakmem_exporter_serve";
// prometheus::TextSerializer::Serialize(): who has it has a prometheus-cpp.
inline constexpr const char* kModuleLibrarySymbol =
    "_ZNK10prometheus14TextSerializer9SerializeERSoRKSt6vectorINS_12MetricFamilyESaIS3_EE";
inline constexpr const char* kModuleFile = "libhakmem-exporter-module.so";

}  // namespace hakmem::telemetry
