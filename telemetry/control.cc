#include "telemetry/control.h"

#include "allocator/base/environment.h"
#include "allocator/metrics/heap_view.h"
#include "telemetry/serving.h"

namespace hakmem::telemetry {
namespace {

using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;

void publish_state(Control* control) {
  control->sample_bytes.store(metrics::sample_interval_bytes.load(memory_order_relaxed), memory_order_relaxed);
  control->guard.store(metrics::guards_samples.load(memory_order_relaxed) ? 1 : 0, memory_order_relaxed);
  control->endpoint.store(static_cast<uint64_t>(endpoint_state()), memory_order_relaxed);
}

}  // namespace

void prepare_control(Control* control) {
  if (environment_number(Variable::kControl) == 0) return;
  publish_state(control);
  control->enabled.store(1, memory_order_release);
}

void follow_requests(Control* control) {
  if (environment_number(Variable::kControl) == 0) return;  // whatever somebody has written there
  uint64_t request = control->request.load(memory_order_acquire);
  if (request != control->answered.load(memory_order_relaxed)) {
    metrics::sample_interval_bytes.store(control->wanted_sample_bytes.load(memory_order_relaxed), memory_order_relaxed);
    metrics::sample_doublings.store(0, memory_order_relaxed);  // telemetry doubles the default interval alone
    metrics::guards_samples.store(control->wanted_guard.load(memory_order_relaxed) != 0, memory_order_relaxed);
    want_endpoint(control->wanted_endpoint.load(memory_order_relaxed) == static_cast<uint64_t>(EndpointState::On));
  }
  publish_state(control);
  control->answered.store(request, memory_order_release);
}

}  // namespace hakmem::telemetry
