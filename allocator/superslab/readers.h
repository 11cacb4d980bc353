// Readers that hold no lock, counted, so that nobody unmaps what they may still
// look at. Apart from the rest, so that tests/model can run these very functions
// with every weaker memory order.
#pragma once

#include <atomic>

namespace hakmem {

struct ReaderOrders {
  std::memory_order enter = std::memory_order_acquire;     // pairs with are_none: what was unlinked is not found
  std::memory_order leave = std::memory_order_release;     // the reading is over
  std::memory_order are_none = std::memory_order_acq_rel;  // release for enter, acquire for leave
};
inline constexpr ReaderOrders kReaderOrders{};

template <const ReaderOrders& orders = kReaderOrders>
struct Readers {
  template <class Count>
  static void enter(Count& count) {
    count.fetch_add(1, orders.enter);
  }
  template <class Count>
  static void leave(Count& count) {
    count.fetch_sub(1, orders.leave);
  }
  // Whether nobody reads now. Who enters later sees all that the caller has seen:
  // adding nothing puts the two in an order, where a load would not.
  template <class Count>
  static bool are_none(Count& count) {
    return count.fetch_add(0, orders.are_none) == 0;
  }
};

}  // namespace hakmem
