// A stats page as a hostile process may write it, read and exposed twice in a row:
// what was shown of the first reading is kept for the second.
#include <prometheus/metric_family.h>

#include "exporter/exposition.h"
#include "exporter/served_pages.h"
#include "telemetry/snapshot.h"
#include "tests/fuzz/page.h"

namespace hakmem::fuzz {
namespace {

constexpr size_t kMostSeries = 2000;

void run(Input input) {
  telemetry::Identity identity{};
  identity.pid = 42;
  strcpy(identity.comm, "service");
  exporter::SizeClassRows rows;
  telemetry::Snapshot totals = telemetry::Snapshot::empty();
  for (int reading = 0; reading < 2 && !input.empty(); ++reading) {
    std::string page = take_page(&input, identity);
    // Of the size it has, so that the sanitizer sees a reader that goes beyond it.
    telemetry::Snapshot snapshot;
    telemetry::PageVerdict verdict = telemetry::read_snapshot(page.data(), page.size() & ~size_t{7}, &snapshot);
    HAKMEM_FUZZ_CHECK((verdict.state == telemetry::PageState::Bad) ==
                      (verdict.problem != metrics::PageProblem::kCount));
    if (!verdict.good()) continue;
    rows.update(snapshot);
    totals.add_counters_of(snapshot);
    exporter::Exposition exposition;
    exposition.add(snapshot, rows, {{"pid", "42"}, {"comm", snapshot.comm}}, exporter::Detail::Full);
    check_exposition(exporter::serialise(exposition.take()), kMostSeries);
  }
  exporter::Exposition ended;
  ended.add(totals, {}, {{"pid", "ended"}}, exporter::Detail::Summary);
  check_exposition(exporter::serialise(ended.take()), kMostSeries);
}

}  // namespace
}  // namespace hakmem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hakmem::fuzz::run({data, size});
  return 0;
}
