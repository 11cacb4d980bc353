// The order of the threads' steps: every run in turn, each on the threads' own stacks.
#include <cstdlib>
#include <utility>

#include "tests/model/state.h"

namespace hakmem::model {

void World::State::begin_run() {
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

bool World::State::next_run() {
  while (!choices.empty() && choices.back().taken + 1 == choices.back().options) choices.pop_back();
  if (choices.empty()) return false;
  ++choices.back().taken;
  return true;
}

void World::State::announce(const Step& step) {
  if (running == kMain) return;
  if (++steps > kMaxSteps) break_rule("the run has an end");
  self().next = step;
  leave();
}

// By _setjmp, since swapcontext calls the kernel.
void World::State::leave() {
  if (_setjmp(self().context) == 0) _longjmp(scheduler, 1);
}

void World::State::break_rule(const char* rule) {
  if (broken.empty()) broken = rule;
  abandoned = true;
  if (running != kMain) leave();  // an abandoned thread is never resumed
}

bool World::State::can_go(uint32_t thread) const {
  if (threads[thread].ended) return false;
  const Step& step = threads[thread].next;
  return !step.locks || locations[step.location].holder == kMain;
}

bool World::State::depend(const Step& a, const Step& b) {
  return a.location == b.location && (a.writes || b.writes || (a.total && b.total));
}

void World::State::enter(unsigned low, unsigned high) {
  auto* state = reinterpret_cast<State*>(uintptr_t{low} | uintptr_t{high} << 32);
  state->live();
}

void World::State::live() {
  (void)_setjmp(self().first);
  (*body)(running);
  self().ended = true;
  _longjmp(scheduler, 1);
}

void World::State::resume(uint32_t thread) {
  running = thread;
  if (_setjmp(scheduler) == 0) _longjmp(threads[thread].context, 1);
  running = kMain;
}

void World::State::start(uint32_t thread) {
  running = thread;
  if (_setjmp(scheduler) == 0) {
    if (threads[thread].is_made) _longjmp(threads[thread].first, 1);
    make(threads[thread]);
  }
  running = kMain;
}

void World::State::make(Thread& thread) {
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

void World::State::start_threads() {
  for (uint32_t i = 0; i < thread_count; ++i) {
    Thread& thread = threads[i];
    thread.view = thread.released = threads[kMain].view;
    thread.view.clock[i] = 1;
    start(i);
    if (abandoned) return;
  }
}

void World::State::run_threads() {
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

void World::State::join_threads() {
  for (uint32_t i = 0; i < thread_count; ++i) threads[kMain].view.join(threads[i].view);
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
