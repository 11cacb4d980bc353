// Mitigations: what makes a memory error of the program harder to use, or easier
// to find. Each is a constant that code asks with `if constexpr`, so that a build
// without one has no trace of it. What each costs stands in docs/mitigations.md;
// bench/mitigations.py builds the library without or with each and measures it.
#pragma once

#include <cstdint>

#include "allocator/base/build_profile.h"

namespace hakmem {

enum class Mitigation : uint32_t {
  // A freed block carries a secret in its first word: a second free and a write into it show.
  kFreeKeys = 1u << 0,
  // Links between blocks are encoded with a secret of the process: who overwrites one cannot choose where it leads.
  kEncodedLinks = 1u << 1,
  // A block that comes back to its slab has to be one that may, and a link has to lead to a block of the slab.
  kCheckedLists = 1u << 2,
  // Metadata and reservations stand between pages without access: no run of writes gets from one to the other.
  kMetadataGuards = 1u << 3,
  // Reservations of superslabs stand at random addresses.
  kRandomAddresses = 1u << 4,

  // A byte of metadata a block says whether the program has it: any second free and any pointer into a block show at
  // once, whatever was written to the block.
  kBlockStates = 1u << 5,
  // What is freed is cleared, and has to be clear still when it is handed out: a write anywhere into it shows.
  kZeroOnFree = 1u << 6,
  // A freed block waits until others of its class were freed, so that a stale pointer seldom finds a new owner there.
  kDelayedReuse = 1u << 7,
  // Which of the free blocks comes next is drawn by lot.
  kRandomReuse = 1u << 8,
  // The last page of each slab and large allocation is without access: no run of writes leaves it.
  kGuardPages = 1u << 9,
};

class MitigationSet {
 public:
  constexpr MitigationSet(Mitigation mitigation) : bits_(static_cast<uint32_t>(mitigation)) {}
  constexpr MitigationSet operator+(MitigationSet other) const { return MitigationSet(bits_ | other.bits_); }
  constexpr MitigationSet operator-(MitigationSet other) const { return MitigationSet(bits_ & ~other.bits_); }
  constexpr bool has(MitigationSet other) const { return (bits_ & other.bits_) == other.bits_; }

 private:
  constexpr explicit MitigationSet(uint32_t bits) : bits_(bits) {}
  uint32_t bits_;
};
constexpr MitigationSet operator+(Mitigation first, Mitigation second) { return MitigationSet(first) + second; }

inline constexpr MitigationSet kDefaultMitigations = Mitigation::kFreeKeys + Mitigation::kEncodedLinks +
                                                     Mitigation::kCheckedLists + Mitigation::kMetadataGuards +
                                                     Mitigation::kRandomAddresses;
inline constexpr MitigationSet kHardenedMitigations = kDefaultMitigations + Mitigation::kBlockStates +
                                                      Mitigation::kZeroOnFree + Mitigation::kDelayedReuse +
                                                      Mitigation::kRandomReuse + Mitigation::kGuardPages;

// For measurements, as an expression: -DHAKMEM_MITIGATIONS=kDefaultMitigations+Mitigation::kGuardPages
#ifndef HAKMEM_MITIGATIONS
#define HAKMEM_MITIGATIONS (kBuild.is_hardened ? kHardenedMitigations : kDefaultMitigations)
#endif
inline constexpr MitigationSet kMitigations = HAKMEM_MITIGATIONS;

constexpr bool has(Mitigation mitigation) { return kMitigations.has(mitigation); }

static_assert(has(Mitigation::kBlockStates) || !has(Mitigation::kZeroOnFree), "clearing takes the free key away");
static_assert(has(Mitigation::kBlockStates) || !has(Mitigation::kDelayedReuse), "no list has the block meanwhile");
static_assert(has(Mitigation::kFreeKeys) || !has(Mitigation::kBlockStates), "the first word is checked by its key");
static_assert(!kBuild.stats || !has(Mitigation::kBlockStates), "samples are handed out and freed on ways of their own");

}  // namespace hakmem
