// Weakens each memory order of a protocol in turn: the scenarios together must find
// every one of them. An order that none of them needs is stronger than it has to be.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/model/checker.h"

namespace hakmem::model {

enum class Access : uint8_t { Load, Store, Exchange, Fence };

struct NamedOrder {
  const char* name;
  std::memory_order* order;
  Access access;
};

struct NamedScenario {
  const char* name;
  Result (*explore)(uint64_t limit);
};

inline std::vector<std::memory_order> weaker_than(std::memory_order order, Access access) {
  switch (order) {
    case std::memory_order_seq_cst:
      if (access == Access::Load) return {std::memory_order_acquire, std::memory_order_relaxed};
      if (access == Access::Store) return {std::memory_order_release, std::memory_order_relaxed};
      [[fallthrough]];
    case std::memory_order_acq_rel: {
      std::vector<std::memory_order> weaker{std::memory_order_acquire, std::memory_order_release,
                                            std::memory_order_relaxed};
      if (order == std::memory_order_seq_cst) weaker.insert(weaker.begin(), std::memory_order_acq_rel);
      return weaker;
    }
    case std::memory_order_relaxed: return {};
    default: return {std::memory_order_relaxed};
  }
}

inline const char* text_of(std::memory_order order) {
  constexpr const char* kNames[] = {"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
  return kNames[static_cast<int>(order)];
}

// Every scenario holds with the orders as shipped, in every run.
inline void expect_holds(const std::vector<NamedScenario>& scenarios) {
  for (const NamedScenario& scenario : scenarios) {
    Result result = scenario.explore(kMaxRuns);
    EXPECT_EQ(result.broken, "") << scenario.name << ", run " << result.runs << ":\n" << result.trace;
    EXPECT_TRUE(result.complete) << scenario.name << ": more than " << result.runs << " runs";
    printf("%-32s %9llu runs\n", scenario.name, static_cast<unsigned long long>(result.runs));
    fflush(stdout);
  }
}

// Whatever weaker order stands in place of one, some scenario finds it.
inline void expect_each_is_needed(const std::vector<NamedOrder>& orders, const std::vector<NamedScenario>& scenarios) {
  for (const NamedOrder& named : orders) {
    const std::memory_order shipped = *named.order;
    for (std::memory_order weak : weaker_than(shipped, named.access)) {
      *named.order = weak;
      std::string found;
      for (const NamedScenario& scenario : scenarios) {
        Result result = scenario.explore(kMaxRuns);
        if (result.broken.empty()) continue;
        found = std::string(scenario.name) + " breaks \"" + result.broken + "\" in run " + std::to_string(result.runs);
        break;
      }
      EXPECT_NE(found, "") << named.name << " may be " << text_of(weak) << " instead of " << text_of(shipped);
      printf("%-20s %s -> %s: %s\n", named.name, text_of(shipped), text_of(weak), found.c_str());
      fflush(stdout);
    }
    *named.order = shipped;
  }
}

}  // namespace hakmem::model
