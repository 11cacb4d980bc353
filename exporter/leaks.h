// Call sites of the host process that keep growing (telemetry/growth.h), by name.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "exporter/exposition.h"
#include "exporter/routes.h"
#include "telemetry/module_interface.h"

namespace hakmem::exporter {

// Used by the one thread that serves.
class LeakSuspects {
 public:
  // `host` lives as long as this.
  explicit LeakSuspects(const telemetry::ModuleHost& host) : host_(host) {}

  // How many there are, and bytes and age of the five that have grown most.
  void add_to(Exposition* exposition);

  // All of them with their stacks, as text for a person.
  Response page();

 private:
  // Stacks whose innermost functions are the same: one series.
  struct Suspect {
    std::string site;
    uint64_t bytes = 0;  // live
    uint64_t grown = 0;
    double objects = 0;
    uint64_t since = UINT64_MAX;  // the oldest of them
    std::vector<const std::vector<std::string>*> stacks{};
  };
  std::vector<Suspect> find();
  using Stack = std::vector<uintptr_t>;
  void name(const std::vector<Stack>& stacks);

  const telemetry::ModuleHost& host_;
  // Names of the frames of each suspect as of the last look: symbol tables are read for
  // new ones alone.
  std::map<Stack, std::vector<std::string>> frames_;
};

}  // namespace hakmem::exporter
