// How a process shows what it has put into its stats page, and how readers see that
// it is whole, without a lock: neither side waits for the other, and a reader may be
// another process. Apart from the page, so that tests/model can run these very
// functions in every order and with every weaker memory order.
#pragma once

#include <atomic>
#include <cstdint>

namespace hakmem::telemetry {

// The memory orders, so that the test can weaken each.
struct PublicationOrders {
  std::memory_order begin = std::memory_order_release;        // fence: who sees a figure sees the odd epoch
  std::memory_order end = std::memory_order_release;          // who sees the even epoch sees the figures
  std::memory_order read_begin = std::memory_order_acquire;   // fence: pairs with `end`
  std::memory_order read_end = std::memory_order_acquire;     // fence: pairs with `begin`
  std::memory_order finish = std::memory_order_release;       // who sees the page's magic sees the page
  std::memory_order read_finish = std::memory_order_acquire;  // fence: pairs with `finish`
};
inline constexpr PublicationOrders kPublicationOrders{};

struct ProcessorFence {
  static void fence(std::memory_order order) { std::atomic_thread_fence(order); }
};

enum class Reading : uint8_t {
  Whole,
  Torn,        // the publisher was storing: read again
  Unreadable,  // the source failed
};

template <class Machine = ProcessorFence, const PublicationOrders& orders = kPublicationOrders>
struct Publication {
  // Calls store(), which stores the figures relaxed, between an odd epoch and the
  // next even one. One publisher at a time.
  template <class Epoch, class Store>
  static void publish(Epoch& epoch, Store store) {
    uint64_t before = epoch.load(std::memory_order_relaxed);
    epoch.store(before + 1, std::memory_order_relaxed);
    Machine::fence(orders.begin);
    store();
    epoch.store(before + 2, orders.end);
  }

  // read_epoch(uint64_t*) and copy() read relaxed, from memory or a file; false when
  // they cannot. What copy() has copied is of one publish() when it is Whole.
  template <class ReadEpoch, class Copy>
  static Reading read(ReadEpoch read_epoch, Copy copy) {
    uint64_t before;
    uint64_t after;
    if (!read_epoch(&before)) return Reading::Unreadable;
    Machine::fence(orders.read_begin);
    if (!copy()) return Reading::Unreadable;
    Machine::fence(orders.read_end);
    if (!read_epoch(&after)) return Reading::Unreadable;
    return before == after && before % 2 == 0 ? Reading::Whole : Reading::Torn;
  }

  // The page is complete: may be read from now on.
  template <class Magic>
  static void finish(Magic& magic, uint64_t value) {
    magic.store(value, orders.finish);
  }

  // Reads the magic and then the rest, both relaxed; false when one of them cannot be read.
  template <class ReadMagic, class ReadRest>
  static bool read_finished(ReadMagic read_magic, ReadRest read_rest) {
    if (!read_magic()) return false;
    Machine::fence(orders.read_finish);
    return read_rest();
  }
};

}  // namespace hakmem::telemetry
