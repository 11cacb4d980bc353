// Which size classes of a process have rows of their own: those in use, at most
// 24 by weight; the rest is summed as size_class="other". Half of the rows are
// kept for classes that grow heavy later: a service touches most classes when it
// starts. Large and huge have rows whenever they are in use.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "telemetry/snapshot.h"

namespace hakmem::exporter {

inline constexpr size_t kMaxSizeClassRows = 24;
inline constexpr size_t kMaxSlabClassRows = kMaxSizeClassRows - 2;

// Whether the process has the class: one without a size it has not, whatever its page counts there.
bool has_class(const telemetry::Snapshot& snapshot, uint32_t size_class);

inline bool is_slab_class(uint32_t size_class) { return size_class < metrics::kSlabClassCount; }

using ClassWeights = std::array<double, metrics::kSizeClassCount>;

// Of the candidates, which have no rows yet, those that get them now, the heaviest first; so many
// slab classes have theirs. The first rows go to whoever is there, those that are held back to
// classes of at least the weight `heavy` and 1 % of all.
std::vector<uint32_t> classes_to_show(std::vector<uint32_t> candidates, const ClassWeights& weights, size_t slab_rows,
                                      double heavy);

// Kept per process from scrape to scrape: a class that was shown stays shown,
// and what it counted while it was part of "other" stays there, so that neither
// series ever falls.
class SizeClassRows {
 public:
  void update(const telemetry::Snapshot& snapshot);

  const std::vector<uint32_t>& shown() const { return shown_; }
  // Whether any class is or was part of "other".
  bool has_other() const { return has_other_; }
  bool is_shown(uint32_t size_class) const { return is_shown_[size_class]; }
  // What a counter's slot of a shown class had counted before it was shown.
  uint64_t counted_as_other(metrics::Metric metric, uint32_t index) const;

 private:
  void show(uint32_t size_class, const telemetry::Snapshot& snapshot);

  std::vector<uint32_t> shown_;
  bool is_shown_[metrics::kSizeClassCount]{};
  bool was_other_[metrics::kSizeClassCount]{};
  bool has_other_ = false;
  std::vector<uint64_t> base_;  // by shard slot; empty until a class leaves "other"
};

}  // namespace hakmem::exporter
