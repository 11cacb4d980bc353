#include "telemetry/transitions.h"

#include <errno.h>
#include <sys/mman.h>

#include <utility>

#include "allocator/base/environment.h"
#include "allocator/metrics/step_timer.h"
#include "telemetry/heap_profile.h"
#include "telemetry/process_account.h"
#include "telemetry/publisher.h"
#include "telemetry/serving.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMillisecond = 1'000'000;
// A walk on a host's thread may hold it up for so long; what costs more is left
// to the serving thread, and tried again now and then.
constexpr uint64_t kMaxProcessCost = 1 * kMillisecond;
constexpr uint64_t kProcessRetry = 60 * kSecond;
constexpr uint64_t kBytesToLook = 512 * 1024;  // of slabs, large and huge blocks
constexpr uint64_t kScrapeHold = 15 * kSecond;
// The clock is asked no sooner again: some 10 to 20 ms. Most transitions look at the ticks alone.
constexpr uint64_t kTicksBetweenLooks = 1 << 25;

struct State {
  std::atomic<bool> held;
  std::atomic<uint64_t> next_publish;  // CLOCK_MONOTONIC; written by the holder
  std::atomic<uint64_t> looked_at;     // in ticks(), at the clock; any thread
  uint64_t next_process_try;           // holder only
  std::atomic<uint64_t> taken_bytes;   // before there is a page; any thread
  // In a page of its own that the kernel clears in a forked child; null where
  // the kernel cannot (before Linux 4.14).
  std::atomic<std::atomic<uint32_t>*> epoch;
  bool is_prepared;
  // What the last scrape was answered from; the serving thread's.
  const PageHeader* served;
  size_t served_bytes;
};
HAKMEM_STARTUP_DATA constinit State state{};
// The calling thread is at work on the page, in the middle of which a signal handler may fork.
constinit thread_local bool is_writer = false;

}  // namespace

bool forked_unnoticed() {
  std::atomic<uint32_t>* epoch = state.epoch.load(std::memory_order_acquire);  // pairs with prepare_fork_detection()
  return epoch != nullptr && epoch->load(std::memory_order_relaxed) == 0;
}

namespace {

uint64_t coarse_now() { return clock_nanoseconds(CLOCK_MONOTONIC_COARSE); }

// The next walk comes no earlier than 100 times the last one's duration.
void schedule(uint64_t now, uint64_t cost, uint64_t at_least) {
  uint64_t wait = cost * 100 > at_least ? cost * 100 : at_least;
  state.next_publish.store(now + wait, std::memory_order_relaxed);
}

void publish_on_transition(uint64_t now) {
  follow_requests(control(page()));
  drain_initial_shard();
  PublishCost before = publish_cost();
  bool whole = before.process <= kMaxProcessCost || now >= state.next_process_try;
  uint32_t threads = publish(metrics::heap_view, page(), whole ? Depth::Process : Depth::Heap);
  PublishCost cost = publish_cost();
  if (whole) state.next_process_try = now + kProcessRetry;
  schedule(now, cost.heap + (whole ? cost.process : 0), kSecond);
  grow_page(threads);
}

void make_page_if_busy() {
  if (!try_acquire_page()) return;
  prepare_fork_detection();
  if (counters_look_busy() && page_home() == PageHome::None)
    create_page(is_set(Variable::kPages) && !endpoint_is_coming(), false);
  release_page();
}

// The least that each transition costs.
bool has_something_to_do(uint64_t bytes) {
  if (forked_unnoticed()) return true;
  switch (page_home()) {
    case PageHome::Refused: return false;
    case PageHome::None: {  // most processes end before the first look
      uint64_t before = state.taken_bytes.fetch_add(bytes, std::memory_order_relaxed);
      return before / kBytesToLook != (before + bytes) / kBytesToLook;
    }
    case PageHome::File:
    case PageHome::Private: return ticks() - state.looked_at.load(std::memory_order_relaxed) >= kTicksBetweenLooks;
  }
  return false;
}

// Apart, for the transitions that find nothing to do to stay short. Whether counters may have moved.
[[gnu::noinline]] bool work_on_transition() {
  uint64_t now = coarse_now();
  bool is_forked = forked_unnoticed();
  if (!is_forked && page_home() != PageHome::None) {
    state.looked_at.store(ticks(), std::memory_order_relaxed);
    if (now < state.next_publish.load(std::memory_order_relaxed)) return false;
  }
  int saved_errno = errno;
  if (is_forked) on_fork_child();
  if (page_home() == PageHome::None) {
    make_page_if_busy();
  } else if (try_acquire_page()) {
    publish_on_transition(now);
    release_page();
  }
  errno = saved_errno;
  return true;
}

}  // namespace

void prepare_fork_detection() {
  if (std::exchange(state.is_prepared, true)) return;
  // Figures are of no use to a process that ends at once, and cost it.
  state.next_publish.store(coarse_now() + kSecond, std::memory_order_relaxed);
  void* address = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return;
  if (madvise(address, 4096, MADV_WIPEONFORK) != 0) {
    munmap(address, 4096);
    return;
  }
  auto* epoch = static_cast<std::atomic<uint32_t>*>(address);
  epoch->store(1, std::memory_order_relaxed);
  state.epoch.store(epoch, std::memory_order_release);
}

bool try_acquire_page() {
  bool was_writer = is_writer;  // a signal handler may ask in the middle of the work
  is_writer = true;
  if (!state.held.exchange(true, std::memory_order_acquire)) return true;
  is_writer = was_writer;
  return false;
}

bool acquire_page() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (try_acquire_page()) return true;
    timespec millisecond{0, static_cast<long>(kMillisecond)};
    nanosleep(&millisecond, nullptr);
  }
  return false;
}

void release_page() {
  state.held.store(false, std::memory_order_release);
  is_writer = false;
}

bool on_transition(size_t bytes) { return has_something_to_do(bytes) && work_on_transition(); }

void publish_now() {
  if (!acquire_page()) return;
  if (page() != nullptr) publish_on_transition(coarse_now());
  release_page();
}

void on_fork_child() {
  // It goes on with the page of its parent; the next transition finds that this is a child.
  if (is_writer) return;
  if (std::atomic<uint32_t>* epoch = state.epoch.load(std::memory_order_relaxed))
    epoch->store(1, std::memory_order_relaxed);
  state.held.store(false, std::memory_order_relaxed);
  state.next_process_try = 0;
  state.taken_bytes.store(0, std::memory_order_relaxed);
  if (state.is_prepared) state.next_publish.store(coarse_now() + kSecond, std::memory_order_relaxed);
  state.served = nullptr;
  abandon_page();
  forget_parent();
  leave_serving_to_parent();
  leave_profile_to_parent();
}

void serve_beside_scrapes() {
  if (!try_acquire_page()) return;
  if (PageHeader* header = page()) follow_requests(control(header));
  // The scrape that wanted it has been answered by now.
  if (is_rollup_wanted()) read_wanted_rollup();
  release_page();
}

const PageHeader* refresh_page(size_t* bytes) {
  if (!acquire_page()) {
    // A thread that publishes has got no processor for as long: what it published before has to do.
    *bytes = state.served_bytes;
    return state.served;
  }
  PageHeader* header = page();
  if (header != nullptr) {
    uint64_t now = coarse_now();
    drain_initial_shard();
    uint32_t threads = publish(metrics::heap_view, header, Depth::Scrape);
    PublishCost cost = publish_cost();
    schedule(now, cost.heap + cost.process, kScrapeHold);
    grow_page(threads);
    header = page();
    *bytes = current_page_bytes();
    state.served = header;
    state.served_bytes = *bytes;
  }
  release_page();
  return header;
}

}  // namespace hakmem::telemetry
