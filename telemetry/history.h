// The last minutes of a process, in its stats page: a ring of the main figures
// and the moment of its peak, so that what led to its end can be read after it.
//
// Written in place by the publisher, one entry at a time. An entry's sequence is
// odd while it is written and 2 n + 2 for the n-th one ever, so that a reader
// knows a torn entry, and the order of the others. The peak has two entries in
// turn: one of them is whole at any time.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

// Bytes that were not measured are NaN. The counters are those since the start.
struct HistoryFigures {
  uint64_t realtime;  // nanoseconds since the epoch
  double resident;    // of the process, by the kernel
  double live;        // this and the next: parts of the resident memory
  double retained;
  double thread_cache;
  double slab_free;
  double outside;
  double unexplained;
  uint64_t allocations;
  uint64_t purged_bytes;
  uint64_t refill_nanoseconds;  // in superslab_refill
};

inline constexpr size_t kHistoryWords = sizeof(HistoryFigures) / sizeof(uint64_t);
using HistoryWords = std::array<uint64_t, kHistoryWords>;

inline constexpr uint64_t kHistoryInterval = 5'000'000'000;  // nanoseconds from entry to entry, at least
inline constexpr size_t kHistoryEntries = 40;
inline constexpr size_t kPeakEntries = 2;

struct HistoryEntry {
  std::atomic<uint64_t> sequence;
  std::atomic<uint64_t> words[kHistoryWords];
};

struct History {
  std::atomic<uint64_t> entries_written;
  std::atomic<uint64_t> peaks_written;
  std::atomic<uint64_t> last_entry;  // CLOCK_MONOTONIC, nanoseconds
  std::atomic<uint64_t> reserved;
  HistoryEntry peaks[kPeakEntries];
  HistoryEntry ring[kHistoryEntries];
};

// Keeps the figures of the moment `now` (CLOCK_MONOTONIC, nanoseconds) as the
// peak, if they are, and in the ring when an entry is due. The publisher only.
void record_history(History* history, const HistoryFigures& figures, uint64_t now);

}  // namespace hakmem::telemetry
