// A list that grows at its front, under a lock, and is read without one: that of
// the thread caches. Nothing ever leaves it. Apart from the rest, so that tests/model
// can run these very functions with every weaker memory order.
#pragma once

#include <atomic>

namespace hakmem {

struct RegistryOrders {
  std::memory_order add = std::memory_order_release;
  std::memory_order first = std::memory_order_acquire;  // pairs with add: what the list leads to is made
};
inline constexpr RegistryOrders kRegistryOrders{};

template <const RegistryOrders& orders = kRegistryOrders>
struct Registry {
  // Under the lock.
  template <class Head, class Node>
  static void add(Head& head, Node* node) {
    node->next_registered = head.load(std::memory_order_relaxed);
    head.store(node, orders.add);
  }
  // Any thread. The others follow through `next_registered`.
  template <class Head>
  static auto* first(const Head& head) {
    return head.load(orders.first);
  }
};

}  // namespace hakmem
