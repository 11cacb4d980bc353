#include "telemetry/diagnosis.h"

namespace hakmem::telemetry {
namespace {

constexpr double kMiB = 1 << 20;

}  // namespace

bool holds(metrics::Finding finding, const Facts& f) {
  switch (finding) {
#define HAKMEM_FINDING(enumerator, name, condition, advice) \
  case metrics::Finding::enumerator:                        \
    return condition;
#include "allocator/metrics/findings.def"
#undef HAKMEM_FINDING
    case metrics::Finding::kCount: break;
  }
  return false;
}

void Window::look(const Counts& now, Facts* facts) {
  if (!has_begun_) earlier_ = later_ = now;
  has_begun_ = true;
  if (now.time - later_.time >= kSpan) {
    earlier_ = later_;
    later_ = now;
  }
  facts->span = now.time - earlier_.time;
  facts->purged = now.purged - earlier_.purged;
  facts->cpu = now.cpu - earlier_.cpu;
  facts->superslab_refill = now.superslab_refill - earlier_.superslab_refill;
  facts->remote_frees = now.remote_frees - earlier_.remote_frees;
  facts->allocations = now.allocations - earlier_.allocations;
}

}  // namespace hakmem::telemetry
