// Threads of a test: all start together, all are joined.
#pragma once

#include <atomic>
#include <barrier>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace hakmem::test {

// Runs body(0) .. body(count - 1), each in a thread of its own.
template <class Body>
void run_threads(uint32_t count, Body body) {
  std::barrier start(static_cast<std::ptrdiff_t>(count));
  std::vector<std::thread> threads;
  threads.reserve(count);
  for (uint32_t i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      start.arrive_and_wait();
      body(i);
    });
  for (std::thread& thread : threads) thread.join();
}

// Runs body in a thread of its own and waits for its end.
template <class Body>
void run_in_thread(Body body) {
  std::thread(body).join();
}

// A thread that stays until the end of the scope and runs what it is given.
class OtherThread {
 public:
  OtherThread() : thread_([this] { work(); }) {}
  explicit OtherThread(std::function<void()> body) : OtherThread() { run(std::move(body)); }
  ~OtherThread() {
    set(State::kStop);
    thread_.join();
  }
  OtherThread(const OtherThread&) = delete;
  OtherThread& operator=(const OtherThread&) = delete;

  // Runs body in the thread and waits for its end.
  void run(std::function<void()> body) {
    body_ = std::move(body);
    set(State::kBusy);
    state_.wait(State::kBusy);
  }

 private:
  enum class State : int { kIdle, kBusy, kStop };

  void set(State state) {
    state_.store(state);
    state_.notify_all();
  }
  void work() {
    for (;;) {
      state_.wait(State::kIdle);
      if (state_.load() == State::kStop) return;
      body_();
      set(State::kIdle);
    }
  }

  std::function<void()> body_;
  std::atomic<State> state_{State::kIdle};
  std::thread thread_;
};

}  // namespace hakmem::test
