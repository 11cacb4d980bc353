#include "tests/model/checker.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/model/state.h"

namespace hakmem::model {
namespace {

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

void World::State::note(const char* what, LocationId location, uint64_t value, std::memory_order order) {
  if (!traces) return;
  char line[160];
  snprintf(line, sizeof line, "  thread %d: %s %s %#llx (%s)\n", running == kMain ? -1 : static_cast<int>(running),
           what, locations[location].name, static_cast<unsigned long long>(value), name_of(order));
  trace += line;
}

const World::State::Message& World::State::read(LocationId id, uint16_t time, std::memory_order order) {
  Location& location = locations[id];
  Message& message = location.messages[time];
  Thread& thread = self();
  thread.view.seen[id] = std::max(thread.view.seen[id], time);
  thread.acquired.join(message.view);
  if (is_acquire(order)) thread.view.join(message.view);
  if (is_total(order)) location.total_floor = std::max(location.total_floor, time);
  return message;
}

void World::State::write(LocationId id, uint64_t value, std::memory_order order, const View* passed_on) {
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

uint16_t World::State::oldest_readable(LocationId id, std::memory_order order) {
  uint16_t floor = self().view.seen[id];
  return is_total(order) ? std::max(floor, locations[id].total_floor) : floor;
}

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

}  // namespace hakmem::model
