// The checker itself, on the litmus tests that everybody knows: what the memory
// model forbids is never seen, and what it allows is.
#include "tests/model/checker.h"

#include <gtest/gtest.h>

namespace hakmem::model {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr auto kTotal = std::memory_order_seq_cst;

// Whether some run ends as `is_bad` says, of a scenario that has it as its only rule.
template <class Scenario>
bool is_seen() {
  Result result = explore<Scenario>();
  EXPECT_TRUE(result.complete);
  return !result.broken.empty();
}

// Each thread writes one word and reads the other: both read the old one.
template <std::memory_order store, std::memory_order load>
struct StoreBuffering {
  static constexpr uint32_t kThreads = 2;
  Atomic<int> words[2]{Atomic<int>("x"), Atomic<int>("y")};
  int read[2]{};
  void thread(uint32_t index) {
    words[index].store(1, store);
    read[index] = words[1 - index].load(load);
  }
  void check() { require(read[0] == 1 || read[1] == 1, "one sees the other"); }
};

TEST(Checker, StoreBuffering) {
  EXPECT_TRUE((is_seen<StoreBuffering<kRelaxed, kRelaxed>>()));
  EXPECT_TRUE((is_seen<StoreBuffering<kRelease, kAcquire>>()));
  EXPECT_TRUE((is_seen<StoreBuffering<kTotal, kAcquire>>()));
  EXPECT_TRUE((is_seen<StoreBuffering<kRelease, kTotal>>()));
  EXPECT_FALSE((is_seen<StoreBuffering<kTotal, kTotal>>()));
}

// A message and its flag.
template <std::memory_order store, std::memory_order load>
struct MessagePassing {
  static constexpr uint32_t kThreads = 2;
  Atomic<int> message{"message"};
  Atomic<int> flag{"flag"};
  Data<int> plain;
  void thread(uint32_t index) {
    if (index == 0) {
      message.store(1, kRelaxed);
      plain = 1;
      flag.store(1, store);
    } else if (flag.load(load) == 1) {
      require(message.load(kRelaxed) == 1, "the message is there");
      require(plain == 1, "the data is there");
    }
  }
  void check() {}
};

TEST(Checker, MessagePassing) {
  EXPECT_TRUE((is_seen<MessagePassing<kRelaxed, kAcquire>>()));
  EXPECT_TRUE((is_seen<MessagePassing<kRelease, kRelaxed>>()));
  EXPECT_FALSE((is_seen<MessagePassing<kRelease, kAcquire>>()));
}

// The same by fences.
template <std::memory_order first, std::memory_order second>
struct FencedMessage {
  static constexpr uint32_t kThreads = 2;
  Atomic<int> flag{"flag"};
  Data<int> message;
  void thread(uint32_t index) {
    if (index == 0) {
      message = 1;
      Fence::fence(first);
      flag.store(1, kRelaxed);
    } else if (flag.load(kRelaxed) == 1) {
      Fence::fence(second);
      require(message == 1, "the message is there");
    }
  }
  void check() {}
};

TEST(Checker, Fences) {
  EXPECT_FALSE((is_seen<FencedMessage<kRelease, kAcquire>>()));
  EXPECT_TRUE((is_seen<FencedMessage<kRelaxed, kAcquire>>()));
  EXPECT_TRUE((is_seen<FencedMessage<kRelease, kRelaxed>>()));
}

// A read-modify-write in between, relaxed, passes a release on; a store does not.
template <bool by_exchange>
struct ReleaseSequence {
  static constexpr uint32_t kThreads = 3;
  Atomic<int> flag{"flag"};
  Data<int> message;
  void thread(uint32_t index) {
    if (index == 0) {
      message = 1;
      flag.store(1, kRelease);
    } else if (index == 1) {
      if (flag.load(kRelaxed) != 1) return;
      by_exchange ? static_cast<void>(flag.exchange(2, kRelaxed)) : flag.store(2, kRelaxed);
    } else if (flag.load(kAcquire) == 2) {
      require(message == 1, "the message is there");
    }
  }
  void check() {}
};

TEST(Checker, ReleaseSequences) {
  EXPECT_FALSE((is_seen<ReleaseSequence<true>>()));
  EXPECT_TRUE((is_seen<ReleaseSequence<false>>()));
}

// Two writers of two words, two readers: do the readers agree on who came first?
template <std::memory_order order>
struct IndependentReads {
  static constexpr uint32_t kThreads = 4;
  Atomic<int> words[2]{Atomic<int>("x"), Atomic<int>("y")};
  int first[2]{};
  int second[2]{};
  void thread(uint32_t index) {
    if (index < 2) return words[index].store(1, order == kTotal ? kTotal : kRelease);
    uint32_t reader = index - 2;
    first[reader] = words[reader].load(order);
    second[reader] = words[1 - reader].load(order);
  }
  void check() { require(!(first[0] == 1 && second[0] == 0 && first[1] == 1 && second[1] == 0), "the readers agree"); }
};

TEST(Checker, IndependentReadsOfIndependentWrites) {
  EXPECT_TRUE((is_seen<IndependentReads<kAcquire>>()));
  EXPECT_FALSE((is_seen<IndependentReads<kTotal>>()));
}

// A thread never sees a word go back.
struct Coherence {
  static constexpr uint32_t kThreads = 2;
  Atomic<int> word{"word"};
  void thread(uint32_t index) {
    if (index == 0) {
      word.store(1, kRelaxed);
      word.store(2, kRelaxed);
    } else {
      int first = word.load(kRelaxed);
      require(word.load(kRelaxed) >= first, "a word does not go back");
    }
  }
  void check() {}
};

struct Increments {
  static constexpr uint32_t kThreads = 3;
  Atomic<int> sum{"sum"};
  void thread(uint32_t) { sum.fetch_add(1, kRelaxed); }
  void check() { require(sum.load() == 3, "none is lost"); }
};

struct LostUpdates {
  static constexpr uint32_t kThreads = 2;
  Atomic<int> sum{"sum"};
  void thread(uint32_t) { sum.store(sum.load() + 1); }
  void check() { require(sum.load() == 2, "none is lost"); }
};

TEST(Checker, OneWord) {
  EXPECT_FALSE(is_seen<Coherence>());
  EXPECT_FALSE(is_seen<Increments>());
  EXPECT_TRUE(is_seen<LostUpdates>());
}

template <bool locks>
struct Guarded {
  static constexpr uint32_t kThreads = 3;
  Lock lock{"lock"};
  Data<int> sum;
  void thread(uint32_t) {
    if (locks) lock.lock();
    sum = sum + 1;
    if (locks) lock.unlock();
  }
  void check() { require(sum == 3, "none is lost"); }
};

struct Deadlock {
  static constexpr uint32_t kThreads = 2;
  Lock locks[2]{Lock("first"), Lock("second")};
  void thread(uint32_t index) {
    locks[index].lock();
    locks[1 - index].lock();
    locks[1 - index].unlock();
    locks[index].unlock();
  }
  void check() {}
};

TEST(Checker, LocksAndDataRaces) {
  EXPECT_FALSE(is_seen<Guarded<true>>());
  EXPECT_EQ(explore<Guarded<false>>().broken, "no data race");
  EXPECT_EQ(explore<Deadlock>().broken, "no thread waits for ever");
}

// Sleep sets leave out runs that are the same, not results: n threads that do not
// meet have one run.
struct Apart {
  static constexpr uint32_t kThreads = 4;
  Atomic<int> words[4]{Atomic<int>("a"), Atomic<int>("b"), Atomic<int>("c"), Atomic<int>("d")};
  void thread(uint32_t index) {
    words[index].store(1);
    words[index].store(2);
  }
  void check() {}
};

TEST(Checker, WhatDoesNotMatterIsLeftOut) {
  Result result = explore<Apart>();
  EXPECT_TRUE(result.complete);
  // Others begin, and are given up at once.
  EXPECT_LT(result.runs, 100u);
}

}  // namespace
}  // namespace hakmem::model
