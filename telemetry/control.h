// Switches of a running process, where HAKMEM_CONTROL=1 allowed them at its
// start: a block in its stats page that `hakmem config` writes to and the
// process looks at, at most once a second and on its own account. No signal, no
// thread, no socket; whoever may write to the page's file (its user, root) may
// change what stands here.
#pragma once

#include <atomic>
#include <cstdint>

namespace hakmem::telemetry {

enum class EndpointState : uint64_t {
  None,  // not asked for at the start, or an ancestor's, or it could not be had
  Off,   // stopped by a request
  On,
};

struct Control {
  std::atomic<uint64_t> enabled;  // 1: the process looks here
  // A request: the three values, then the number of the request, one above the last.
  std::atomic<uint64_t> request;
  std::atomic<uint64_t> wanted_sample_bytes;
  std::atomic<uint64_t> wanted_guard;     // whether samples are guarded, 0 or 1
  std::atomic<uint64_t> wanted_endpoint;  // an EndpointState, Off or On
  // The process's answer: what holds, then the number of the request.
  std::atomic<uint64_t> answered;
  std::atomic<uint64_t> sample_bytes;
  std::atomic<uint64_t> guard;
  std::atomic<uint64_t> endpoint;  // an EndpointState
};

// In a new page: says whether the process listens to requests, and what holds.
void prepare_control(Control* control);

// Does what was requested since the last call. The holder of the page.
void follow_requests(Control* control);

}  // namespace hakmem::telemetry
