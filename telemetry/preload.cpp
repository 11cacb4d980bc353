// Composition root of the telemetry library: hooks the telemetry into the
// allocator that it is linked with.
#include "allocator/base/environment.h"
#include "allocator/metrics/heap_view.h"
#include "telemetry/code_names.h"
#include "telemetry/heap_profile.h"
#include "telemetry/page_writer.h"
#include "telemetry/serving.h"
#include "telemetry/transitions.h"
#include "telemetry/unwind.h"

namespace hakmem::telemetry {
namespace {

// A default is nothing but a text among our constants, which few processes need as they start.
bool is_on(Variable variable) { return is_set(variable) && environment_number(variable) != 0; }

__attribute__((constructor)) void start() {
  check_environment();
  // Elsewhere with the first look at the counters: a process that ends before pays nothing.
  if (is_set(Variable::kListen)) prepare_fork_detection();
  metrics::hooks.on_fork_child = on_fork_child;
  metrics::hooks.on_transition = on_transition;
  start_serving();
  // Stacks cost something at each sample, and nobody can ask for them without an endpoint.
  if (endpoint_is_coming()) start_heap_profile();
  // Where control is allowed guards may come later, when the loader cannot be asked any more.
  if (is_on(Variable::kGuard) || is_on(Variable::kControl)) {
    prepare_unwinding();
    metrics::hooks.name_code = name_code;
    metrics::hooks.capture_stack = capture_stack;
  }
}

__attribute__((destructor)) void stop() {
  // A child that bypassed the fork handlers still has its parent's page here.
  if (forked_unnoticed()) return;
  stop_serving();
  remove_page();
}

}  // namespace
}  // namespace hakmem::telemetry
