// A checker of lock-free protocols: runs a scenario of two to four threads in every
// order of their steps and with every value that each load may see, and stops at
// the first run that breaks a rule.
//
// The memory model is C++20's, by views, as in "A promising semantics for
// relaxed-memory concurrency" (Kang et al., POPL 2017) without promises:
//
//   - A location has a list of messages, its modification order. A view says for
//     each location which message a thread has seen, and for each thread how far it
//     is known to have come (a vector clock): what happens before.
//   - A load reads any message that is no older than what its thread has seen.
//   - A release store puts its thread's view into the message, an acquire load joins
//     that view; a read-modify-write reads the newest message and passes the view
//     of that one on (release sequences). Fences work on relaxed loads before them
//     and relaxed stores after them.
//   - Sequentially consistent operations happen in the order in which they are run;
//     such a load reads nothing older than what such an operation on the location
//     wrote or read before.
//   - Data without atomics may not be used by two threads, one of them writing,
//     unless one use happens before the other: a data race is a broken rule.
//
// What it does not explore: a store takes its place in the modification order when
// it is run, behind all others (no 2+2W); a load never reads a store that is run
// later (no load buffering; compilers and processors of today forbid or avoid both
// where a value depends on it); a weak compare-exchange does not fail for no reason
// (it would only be tried again); sequentially consistent fences (nothing here has
// one). Orders that a processor has beyond C++ (x86-64 is stronger) are not assumed.
//
// Runs that differ only in the order of steps that do not matter to each other are
// left out by sleep sets (Godefroid, 1996). One process explores at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace hakmem::model {

inline constexpr uint32_t kMaxThreads = 4;
inline constexpr uint32_t kMaxLocations = 16;

// What somebody knows of: how many messages of each location, and how many steps of each thread.
struct View {
  std::array<uint16_t, kMaxLocations> seen{};
  std::array<uint16_t, kMaxThreads + 1> clock{};  // the last one is of who sets up and checks

  void join(const View& other);
};

struct Result {
  uint64_t runs = 0;
  bool complete = false;  // every run was tried, or one broke a rule
  std::string broken;     // the rule that was broken; empty when none was
  std::string trace;      // the steps of that run
};

// The world that a scenario runs in; the classes below are how a scenario uses it.
class World {
 public:
  static World& current();

  using LocationId = uint32_t;
  LocationId add_location(const char* name, uint64_t value);
  uint64_t load(LocationId location, std::memory_order order);
  void store(LocationId location, uint64_t value, std::memory_order order);
  // Replaces the newest value by change(value).
  uint64_t exchange(LocationId location, std::memory_order order, const std::function<uint64_t(uint64_t)>& change);
  // False, and `expected` what was read, when that was another value.
  bool compare_exchange(LocationId location, uint64_t& expected, uint64_t value, std::memory_order success,
                        std::memory_order failure);
  void fence(std::memory_order order);
  void lock(LocationId location);
  void unlock(LocationId location);
  void use_data(uint32_t* data, bool writes);  // by its index, 0 at first
  // Ends the run when the rule is broken.
  void require(bool holds, const char* rule);

  // Tries every run of threads 0 to `threads` - 1, at most `limit`.
  // `start` makes the scenario anew, `check` looks at what is left at the end.
  Result explore(uint32_t threads, const std::function<void()>& start, const std::function<void(uint32_t)>& thread,
                 const std::function<void()>& check, uint64_t limit);

 private:
  World() = default;
  struct State;
  State* state_ = nullptr;
};

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Stands in for std::atomic. Made while a scenario is set up.
template <class T>
class Atomic {
 public:
  explicit Atomic(const char* name, T value = T{}) : id_(World::current().add_location(name, to_bits(value))) {}
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  T load(std::memory_order order = std::memory_order_seq_cst) const {
    return from_bits<T>(World::current().load(id_, order));
  }
  void store(T value, std::memory_order order = std::memory_order_seq_cst) {
    World::current().store(id_, to_bits(value), order);
  }
  T exchange(T value, std::memory_order order = std::memory_order_seq_cst) {
    return from_bits<T>(World::current().exchange(id_, order, [&](uint64_t) { return to_bits(value); }));
  }
  T fetch_add(T amount, std::memory_order order = std::memory_order_seq_cst) {
    return from_bits<T>(World::current().exchange(
        id_, order, [&](uint64_t old) { return to_bits(static_cast<T>(from_bits<T>(old) + amount)); }));
  }
  T fetch_sub(T amount, std::memory_order order = std::memory_order_seq_cst) {
    return from_bits<T>(World::current().exchange(
        id_, order, [&](uint64_t old) { return to_bits(static_cast<T>(from_bits<T>(old) - amount)); }));
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order success, std::memory_order failure) {
    uint64_t bits = to_bits(expected);
    bool done = World::current().compare_exchange(id_, bits, to_bits(desired), success, failure);
    expected = from_bits<T>(bits);
    return done;
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order order) {
    return compare_exchange_strong(expected, desired, order, failure_order(order));
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order success, std::memory_order failure) {
    return compare_exchange_strong(expected, desired, success, failure);
  }

 private:
  static std::memory_order failure_order(std::memory_order order) {
    if (order == std::memory_order_acq_rel) return std::memory_order_acquire;
    return order == std::memory_order_release ? std::memory_order_relaxed : order;
  }

  World::LocationId id_;
};

// Data without atomics: each use is checked for a race.
template <class T>
class Data {
 public:
  Data() = default;
  explicit Data(T value) : value_(value) {}
  operator T() const { return get(); }
  Data& operator=(T value) {
    set(value);
    return *this;
  }
  T get() const {
    World::current().use_data(&id_, false);
    return value_;
  }
  void set(T value) {
    World::current().use_data(&id_, true);
    value_ = value;
  }

 private:
  T value_{};
  mutable uint32_t id_ = 0;
};

// A lock, with the orders that every lock has.
class Lock {
 public:
  explicit Lock(const char* name) : id_(World::current().add_location(name, 0)) {}
  void lock() { World::current().lock(id_); }
  void unlock() { World::current().unlock(id_); }

 private:
  World::LocationId id_;
};

// Stands in for std::atomic_thread_fence.
struct Fence {
  static void fence(std::memory_order order) { World::current().fence(order); }
};

inline void require(bool holds, const char* rule) { World::current().require(holds, rule); }

inline constexpr uint64_t kMaxRuns = 20'000'000;

// Tries a scenario: `Scenario` is made anew for each run; it has kThreads,
// thread(index), and check() for when all threads have ended.
template <class Scenario>
Result explore(uint64_t limit = kMaxRuns) {
  alignas(Scenario) static std::byte memory[sizeof(Scenario)];
  Scenario* scenario = nullptr;
  return World::current().explore(
      Scenario::kThreads, [&] { scenario = new (memory) Scenario(); }, [&](uint32_t index) { scenario->thread(index); },
      [&] { scenario->check(); }, limit);
}

}  // namespace hakmem::model
