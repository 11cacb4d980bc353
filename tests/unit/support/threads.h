// Threads of a test: all start together, all are joined.
#pragma once

#include <barrier>
#include <cstdint>
#include <thread>
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

}  // namespace hakmem::test
