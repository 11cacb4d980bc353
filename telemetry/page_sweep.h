// Pages whose process is gone: killed, or ended by _exit. hakmem-exporter adds
// them up and removes them; where none runs, the writers of new pages do.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

// What the stats pages in a directory take up together.
struct PagesHeld {
  uint64_t bytes;
  uint64_t count;
};
PagesHeld pages_held(int directory);

// Removes pages of this pid namespace whose process is gone and that showed no
// sign of life for `retention` seconds; at most 1,024 of them.
void sweep_pages(int directory, uint64_t own_namespace, uint64_t retention);

// For a new page now and then: keeps a page for ten minutes after its process's
// end, or none at all where there are more than 512 pages.
void sweep_as_needed(int directory, uint64_t own_namespace);

}  // namespace hakmem::telemetry
