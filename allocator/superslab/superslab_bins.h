// The superslabs that are mapped, in lists by their longest run of free units, and
// by whether any free unit of theirs holds pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "allocator/base/bits.h"
#include "allocator/superslab/superslab.h"

namespace hakmem {

// Guarded by the lock of the SuperslabHeap.
class SuperslabBins {
 public:
  // Into the list where it belongs by now, and out of it before its units change.
  void link(Superslab* superslab) {
    superslab->bin = static_cast<uint8_t>(superslab->right_bin());
    superslab->bin_kind = static_cast<uint8_t>(superslab->right_bin_kind());
    Bin& bin = bins_[superslab->bin_kind][superslab->bin];
    superslab->previous = nullptr;
    superslab->next = bin.first;
    (bin.first != nullptr ? bin.first->previous : bin.last) = superslab;
    bin.first = superslab;
    bins_in_use_[superslab->bin_kind] |= bit_of(superslab->bin);
  }

  void unlink(Superslab* superslab) {
    Bin& bin = bins_[superslab->bin_kind][superslab->bin];
    (superslab->previous != nullptr ? superslab->previous->next : bin.first) = superslab->next;
    (superslab->next != nullptr ? superslab->next->previous : bin.last) = superslab->previous;
    if (bin.first == nullptr) bins_in_use_[superslab->bin_kind] &= ~bit_of(superslab->bin);
  }

  // The fullest superslab that has a run of `units`: what is nearly empty gets
  // the chance to become empty, and is purged whole. But one where such a run
  // still holds pages goes before it, if one is near: it costs no page fault,
  // and no memory beside what is held back already.
  Superslab* find_superslab(uint32_t units) const {
    uint64_t dirty = bins_in_use_[Superslab::kDirty] >> (units - 1) << (units - 1);
    uint64_t clean = bins_in_use_[Superslab::kClean] >> (units - 1) << (units - 1);
    uint32_t tries = kDirtyTries;
    for (uint64_t rest = dirty; rest != 0 && tries != 0; rest &= rest - 1)
      for (Superslab* superslab = bins_[Superslab::kDirty][__builtin_ctzll(rest) + 1].first;
           superslab != nullptr && tries != 0; superslab = superslab->next, --tries)
        if (run_starts(superslab->dirty, units) != 0) return superslab;
    if ((dirty | clean) == 0) return nullptr;
    uint32_t shortest = static_cast<uint32_t>(__builtin_ctzll(dirty | clean));
    return bins_[dirty >> shortest & 1 ? Superslab::kDirty : Superslab::kClean][shortest + 1].first;
  }

  // Whole superslabs first, and of those the one that waited longest.
  Superslab* emptiest_dirty() const {
    uint64_t in_use = bins_in_use_[Superslab::kDirty];
    return in_use == 0 ? nullptr : bins_[Superslab::kDirty][log2_floor(in_use) + 1].last;
  }

  // One whose units are all free; null when there is none.
  Superslab* first_empty() const {
    for (const auto& bins : bins_)
      if (bins[kUnitsPerSuperslab].first != nullptr) return bins[kUnitsPerSuperslab].first;
    return nullptr;
  }

  bool is_consistent() const {
    for (const auto& bins : bins_)
      for (const Bin& bin : bins)
        for (Superslab* superslab = bin.first; superslab != nullptr; superslab = superslab->next)
          if (!superslab->is_consistent() || &bin != &bins_[superslab->bin_kind][superslab->bin]) return false;
    return true;
  }

 private:
  static constexpr uint32_t kDirtyTries = 16;  // superslabs looked at for a run that holds pages

  struct Bin {
    Superslab* first = nullptr;
    Superslab* last = nullptr;
  };

  // Of the list of a run, 1 to 64; that of what has none is not looked for.
  static uint64_t bit_of(uint32_t run) { return run == 0 ? 0 : uint64_t{1} << (run - 1); }

  uint64_t bins_in_use_[Superslab::kBinKinds]{};  // a bit for each list that is not empty
  Bin bins_[Superslab::kBinKinds][kUnitsPerSuperslab + 1]{};
};

}  // namespace hakmem
