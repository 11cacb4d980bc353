// What a World holds while it explores: the memory that the threads share, and how far
// the run is. checker.cc takes the steps of threads, runs.cc decides whose is next.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <memory>

#include "tests/model/checker.h"

namespace hakmem::model {

inline constexpr uint32_t kMain = kMaxThreads;  // who sets up and checks

struct World::State {
  static constexpr size_t kStackBytes = 64 * 1024;
  static constexpr uint32_t kMaxSteps = 2000;  // of a run: a loop without end is a broken rule

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

  // The run (runs.cc)

  void begin_run();
  // Runs the threads until all have ended, or the run is abandoned.
  void run_threads();
  void join_threads();
  // Goes to the next run; false when there is none.
  bool next_run();
  // A thread is about to take a step: whoever is chosen goes first.
  void announce(const Step& step);
  // Ends the run; does not return to a thread.
  void break_rule(const char* rule);

  // The memory (checker.cc)

  const Message& read(LocationId id, uint16_t time, std::memory_order order);
  void write(LocationId id, uint64_t value, std::memory_order order, const View* passed_on);
  uint16_t newest(LocationId id) const { return static_cast<uint16_t>(locations[id].messages.size() - 1); }
  uint16_t oldest_readable(LocationId id, std::memory_order order);
  void note(const char* what, LocationId location, uint64_t value, std::memory_order order);

 private:
  // To the scheduler; back when it resumes the thread.
  void leave();
  void resume(uint32_t thread);
  // Starts a thread on its own stack, up to its first step.
  void start(uint32_t thread);
  void start_threads();
  [[noreturn]] void make(Thread& thread);
  static void enter(unsigned low, unsigned high);
  // A thread, run after run.
  [[noreturn]] void live();
  bool can_go(uint32_t thread) const;
  // Whether the order of two steps can matter. The first step of a thread, up to its first use of an atomic, has none.
  static bool depend(const Step& a, const Step& b);
};

}  // namespace hakmem::model
