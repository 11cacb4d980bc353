#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace bench {

// A bounded queue between threads, which allocates nothing after its
// construction. It carries batches: a lock and a wake-up are little beside the
// allocations of a batch, and waiting threads leave the processor to others.
template <typename Item>
class Queue {
 public:
  explicit Queue(size_t depth) : ring_(depth) {}

  void push(Item&& item) {
    std::unique_lock lock(mutex_);
    not_full_.wait(lock, [&] { return pushed_ - popped_ < ring_.size(); });
    ring_[pushed_++ % ring_.size()] = std::move(item);
    not_empty_.notify_one();
  }

  Item pop() {
    std::unique_lock lock(mutex_);
    not_empty_.wait(lock, [&] { return popped_ < pushed_; });
    Item item = std::move(ring_[popped_++ % ring_.size()]);
    not_full_.notify_one();
    return item;
  }

 private:
  std::mutex mutex_;
  std::condition_variable not_full_, not_empty_;
  std::vector<Item> ring_;
  uint64_t pushed_ = 0, popped_ = 0;  // items so far
};

}  // namespace bench
