#include "tests/model/checker.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

namespace hakmem::model {
namespace {

constexpr uint32_t kMain = kMaxThreads;  // who sets up and checks
constexpr size_t kStackBytes = 64 * 1024;
constexpr uint32_t kMaxSteps = 2000;  // of a run: a loop without end is a broken rule

bool is_acquire(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst || order == std::memory_order_consume;
}
bool is_release(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}
bool is_total(std::memory_order order) { return order == std::memory_order_seq_cst; }

const char* name_of(std::memory_order order) {
  switch (order) {
    case std::memory_order_relaxed: return "relaxed";
    case std::memory_order_consume:
    case std::memory_order_acquire: return "acquire";
    case std::memory_order_release: return "release";
    case std::memory_order_acq_rel: return "acq_rel";
    case std::memory_order_seq_cst: return "seq_cst";
  }
  return "?";
}

}  // namespace

void View::join(const View& other) {
  for (size_t i = 0; i < seen.size(); ++i) seen[i] = std::max(seen[i], other.seen[i]);
  for (size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], other.clock[i]);
}

struct World::State {
  struct Message {
    uint64_t value;
    View view;
  };
  struct Location {
    const char* name = "";
    std::vector<Message> messages;
    uint16_t total_floor = 0;  // no sequentially consistent load reads an older message
    uint32_t holder = kMain;   // of a lock; kMain when it is free
  };
  struct DataUse {
    uint32_t writer = kMain;
    uint16_t written = 0;
    std::array<uint16_t, kMaxThreads + 1> read{};
  };
  // The step that a thread will take next.
  struct Step {
    LocationId location = 0;
    bool writes = false;
    bool total = false;
    bool locks = false;
  };
  struct Thread {
    View view;
    View acquired;  // what an acquire fence would add
    View released;  // what a relaxed store passes on
    Step next;
    bool ended = false;
    jmp_buf first;    // where it begins a run; made by its first one
    jmp_buf context;  // where it waits in a run
    bool is_made = false;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
  };
  // A decision of a run: which thread goes on, or which message a load reads.
  struct Choice {
    uint32_t taken = 0;
    uint32_t options = 0;
  };

  std::array<Location, kMaxLocations> locations;
  uint32_t location_count = 0;
  std::vector<DataUse> data;
  std::array<Thread, kMaxThreads + 1> threads;
  uint32_t thread_count = 0;
  uint32_t running = kMain;
  jmp_buf scheduler;
  ucontext_t first_context{};
  std::vector<Choice> choices;
  size_t position = 0;
  uint32_t steps = 0;
  bool abandoned = false;  // the rest of the run is of no interest
  std::string broken;
  bool traces = false;
  std::string trace;
  const std::function<void(uint32_t)>* body = nullptr;

  Thread& self() { return threads[running]; }

  // One of `options`, each in turn over the runs.
  uint32_t choose(uint32_t options) {
    if (options == 1) return 0;
    if (position == choices.size()) choices.push_back({0, options});
    return choices[position++].taken;
  }

  // Goes to the next run; false when there is none.
  bool next_run() {
    while (!choices.empty() && choices.back().taken + 1 == choices.back().options) choices.pop_back();
    if (choices.empty()) return false;
    ++choices.back().taken;
    return true;
  }

  void begin_run() {
    for (Location& location : locations) {
      location.messages.clear();
      location.total_floor = 0;
      location.holder = kMain;
    }
    location_count = 0;
    data.assign(1, {});
    for (Thread& thread : threads) {
      thread.view = thread.acquired = thread.released = View{};
      thread.ended = false;
      thread.next = {};
    }
    running = kMain;
    position = 0;
    steps = 0;
    abandoned = false;
    trace.clear();
  }

  // A thread is about to take a step: whoever is chosen goes first.
  void announce(const Step& step) {
    if (running == kMain) return;
    if (++steps > kMaxSteps) break_rule("the run has an end");
    self().next = step;
    leave();
  }

  // To the scheduler; back when it resumes the thread. By _setjmp, since swapcontext
  // calls the kernel.
  void leave() {
    if (_setjmp(self().context) == 0) _longjmp(scheduler, 1);
  }

  void break_rule(const char* rule) {
    if (broken.empty()) broken = rule;
    abandoned = true;
    if (running != kMain) leave();  // an abandoned thread is never resumed
  }

  void note(const char* what, LocationId location, uint64_t value, std::memory_order order) {
    if (!traces) return;
    char line[160];
    snprintf(line, sizeof line, "  thread %d: %s %s %#llx (%s)\n", running == kMain ? -1 : static_cast<int>(running),
             what, locations[location].name, static_cast<unsigned long long>(value), name_of(order));
    trace += line;
  }

  const Message& read(LocationId id, uint16_t time, std::memory_order order) {
    Location& location = locations[id];
    Message& message = location.messages[time];
    Thread& thread = self();
    thread.view.seen[id] = std::max(thread.view.seen[id], time);
    thread.acquired.join(message.view);
    if (is_acquire(order)) thread.view.join(message.view);
    if (is_total(order)) location.total_floor = std::max(location.total_floor, time);
    return message;
  }

  void write(LocationId id, uint64_t value, std::memory_order order, const View* passed_on) {
    Location& location = locations[id];
    auto time = static_cast<uint16_t>(location.messages.size());
    Thread& thread = self();
    thread.view.seen[id] = time;
    View view = is_release(order) ? thread.view : thread.released;
    view.seen[id] = time;
    if (passed_on != nullptr) view.join(*passed_on);
    location.messages.push_back({value, view});
    if (is_total(order)) location.total_floor = time;
    ++thread.view.clock[running];  // what it does from here on, nobody knows by this message
  }

  uint16_t newest(LocationId id) const { return static_cast<uint16_t>(locations[id].messages.size() - 1); }

  uint16_t oldest_readable(LocationId id, std::memory_order order) {
    uint16_t floor = self().view.seen[id];
    return is_total(order) ? std::max(floor, locations[id].total_floor) : floor;
  }

  bool can_go(uint32_t thread) const {
    if (threads[thread].ended) return false;
    const Step& step = threads[thread].next;
    return !step.locks || locations[step.location].holder == kMain;
  }

  // Whether the order of two steps can matter. The first step of a thread, up to its first use of an atomic, has none.
  static bool depend(const Step& a, const Step& b) {
    return a.location == b.location && (a.writes || b.writes || (a.total && b.total));
  }

  static void enter(unsigned low, unsigned high) {
    auto* state = reinterpret_cast<State*>(uintptr_t{low} | uintptr_t{high} << 32);
    state->live();
  }

  // A thread, run after run.
  [[noreturn]] void live() {
    (void)_setjmp(self().first);
    (*body)(running);
    self().ended = true;
    _longjmp(scheduler, 1);
  }

  void resume(uint32_t thread) {
    running = thread;
    if (_setjmp(scheduler) == 0) _longjmp(threads[thread].context, 1);
    running = kMain;
  }

  // Starts a thread on its own stack, up to its first step.
  void start(uint32_t thread) {
    running = thread;
    if (_setjmp(scheduler) == 0) {
      if (threads[thread].is_made) _longjmp(threads[thread].first, 1);
      make(threads[thread]);
    }
    running = kMain;
  }

  [[noreturn]] void make(Thread& thread) {
    thread.is_made = true;
    getcontext(&first_context);
    first_context.uc_stack.ss_sp = thread.stack.get();
    first_context.uc_stack.ss_size = kStackBytes;
    first_context.uc_link = nullptr;
    auto address = reinterpret_cast<uintptr_t>(this);
    makecontext(&first_context, reinterpret_cast<void (*)()>(&State::enter), 2, static_cast<unsigned>(address),
                static_cast<unsigned>(address >> 32));
    setcontext(&first_context);
    abort();
  }

  void start_threads() {
    for (uint32_t i = 0; i < thread_count; ++i) {
      Thread& thread = threads[i];
      thread.view = thread.released = threads[kMain].view;
      thread.view.clock[i] = 1;
      start(i);
      if (abandoned) return;
    }
  }

  // Runs the threads until all have ended, or the run is abandoned.
  void run_threads() {
    start_threads();
    uint32_t asleep = 0;  // by thread: its next step was tried here already, and nothing since matters to it
    while (!abandoned) {
      uint32_t candidates[kMaxThreads];
      uint32_t count = 0;
      bool all_ended = true;
      bool any_can_go = false;
      for (uint32_t i = 0; i < thread_count; ++i) {
        all_ended = all_ended && threads[i].ended;
        if (!can_go(i)) continue;
        any_can_go = true;
        if ((asleep >> i & 1) == 0) candidates[count++] = i;
      }
      if (all_ended) return;
      if (!any_can_go) return break_rule("no thread waits for ever");
      if (count == 0) {
        abandoned = true;  // another run is the same
        return;
      }
      uint32_t taken = choose(count);
      for (uint32_t i = 0; i < taken; ++i) asleep |= 1u << candidates[i];
      uint32_t chosen = candidates[taken];
      Step step = threads[chosen].next;
      for (uint32_t i = 0; i < thread_count; ++i)
        if ((asleep >> i & 1) != 0 && depend(threads[i].next, step)) asleep &= ~(1u << i);
      resume(chosen);
    }
  }

  void join_threads() {
    for (uint32_t i = 0; i < thread_count; ++i) threads[kMain].view.join(threads[i].view);
  }
};

World& World::current() {
  static World world;
  return world;
}

World::LocationId World::add_location(const char* name, uint64_t value) {
  State& s = *state_;
  if (s.running != kMain || s.location_count == kMaxLocations) abort();
  State::Location& location = s.locations[s.location_count];
  location.name = name;
  location.messages.push_back({value, s.self().view});
  return s.location_count++;
}

uint64_t World::load(LocationId location, std::memory_order order) {
  State& s = *state_;
  s.announce({location, false, is_total(order), false});
  uint16_t newest = s.newest(location);
  uint16_t oldest = s.running == kMain ? newest : s.oldest_readable(location, order);
  // The newest first: a run in which nothing is late is tried before the others.
  auto time = static_cast<uint16_t>(newest - s.choose(uint32_t{newest} - oldest + 1));
  uint64_t value = s.read(location, time, order).value;
  s.note(time == newest ? "loads" : "loads the old", location, value, order);
  return value;
}

void World::store(LocationId location, uint64_t value, std::memory_order order) {
  State& s = *state_;
  s.announce({location, true, is_total(order), false});
  s.write(location, value, order, nullptr);
  s.note("stores", location, value, order);
}

uint64_t World::exchange(LocationId location, std::memory_order order,
                         const std::function<uint64_t(uint64_t)>& change) {
  State& s = *state_;
  s.announce({location, true, is_total(order), false});
  State::Message old = s.read(location, s.newest(location), order);
  s.write(location, change(old.value), order, &old.view);
  s.note("exchanges for", location, s.locations[location].messages.back().value, order);
  return old.value;
}

bool World::compare_exchange(LocationId location, uint64_t& expected, uint64_t value, std::memory_order success,
                             std::memory_order failure) {
  State& s = *state_;
  s.announce({location, true, is_total(success) || is_total(failure), false});
  // It succeeds on the newest message alone, and fails on any that has another value.
  const auto& messages = s.locations[location].messages;
  uint16_t newest = s.newest(location);
  uint16_t oldest = s.oldest_readable(location, failure);
  auto is_option = [&](uint16_t time) { return time == newest || messages[time].value != expected; };
  uint32_t options = 0;
  for (uint16_t time = oldest; time <= newest; ++time) options += is_option(time);
  uint16_t time = newest;
  for (uint32_t skipped = s.choose(options); skipped > 0; --skipped) do
      --time;
    while (!is_option(time));
  if (messages[time].value == expected) {
    State::Message old = s.read(location, time, success);
    s.write(location, value, success, &old.view);
    s.note("exchanges for", location, value, success);
    return true;
  }
  expected = s.read(location, time, failure).value;
  s.note("does not exchange", location, expected, failure);
  return false;
}

void World::fence(std::memory_order order) {
  State::Thread& thread = state_->self();
  if (is_acquire(order)) thread.view.join(thread.acquired);
  if (is_release(order)) {
    thread.released = thread.view;
    ++thread.view.clock[state_->running];
  }
}

void World::lock(LocationId location) {
  State& s = *state_;
  s.announce({location, true, true, true});
  s.locations[location].holder = s.running;
  State::Message old = s.read(location, s.newest(location), std::memory_order_acquire);
  s.write(location, 1, std::memory_order_relaxed, &old.view);
  s.note("takes", location, 1, std::memory_order_acquire);
}

void World::unlock(LocationId location) {
  State& s = *state_;
  s.announce({location, true, true, false});
  s.locations[location].holder = kMain;
  s.write(location, 0, std::memory_order_release, nullptr);
  s.note("leaves", location, 0, std::memory_order_release);
}

void World::use_data(uint32_t* data, bool writes) {
  State& s = *state_;
  if (*data == 0) {
    *data = static_cast<uint32_t>(s.data.size());
    s.data.emplace_back();
  }
  State::DataUse& use = s.data[*data];
  const View& view = s.self().view;
  bool is_ordered = view.clock[use.writer] >= use.written;
  for (uint32_t i = 0; writes && i <= kMaxThreads; ++i) is_ordered = is_ordered && view.clock[i] >= use.read[i];
  if (!is_ordered) return s.break_rule("no data race");
  uint16_t now = view.clock[s.running];
  if (writes) {
    use.writer = s.running;
    use.written = now;
  } else {
    use.read[s.running] = now;
  }
}

void World::require(bool holds, const char* rule) {
  if (!holds) state_->break_rule(rule);
}

Result World::explore(uint32_t threads, const std::function<void()>& start, const std::function<void(uint32_t)>& thread,
                      const std::function<void()>& check, uint64_t limit) {
  State state;
  state_ = &state;
  state.thread_count = threads;
  state.body = &thread;
  Result result;
  auto run = [&] {
    state.begin_run();
    ++state.threads[kMain].view.clock[kMain];
    start();
    state.run_threads();
    if (!state.abandoned) {
      state.join_threads();
      check();
    }
    return state.broken.empty();
  };
  do {
    ++result.runs;
    if (!run()) {
      // Once more, for its steps.
      result.broken = std::exchange(state.broken, "");
      state.traces = true;
      run();
      result.trace = state.trace;
      result.complete = true;
      break;
    }
    result.complete = !state.next_run();
  } while (!result.complete && result.runs < limit);
  state_ = nullptr;
  return result;
}

}  // namespace hakmem::model
