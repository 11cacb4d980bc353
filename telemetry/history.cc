#include "telemetry/history.h"

namespace hakmem::telemetry {
namespace {

using std::memory_order_relaxed;
using std::memory_order_release;

void write_entry(HistoryEntry* entry, uint64_t number, const HistoryFigures& figures) {
  entry->sequence.store(2 * number + 1, memory_order_relaxed);
  std::atomic_thread_fence(memory_order_release);
  auto words = std::bit_cast<HistoryWords>(figures);
  for (size_t i = 0; i < kHistoryWords; ++i) entry->words[i].store(words[i], memory_order_relaxed);
  entry->sequence.store(2 * number + 2, memory_order_release);
}

bool is_peak(const History* history, double resident) {
  uint64_t written = history->peaks_written.load(memory_order_relaxed);
  if (written == 0) return resident > 0;
  constexpr size_t kResident = offsetof(HistoryFigures, resident) / sizeof(uint64_t);
  const HistoryEntry& last = history->peaks[(written - 1) % kPeakEntries];
  return resident > std::bit_cast<double>(last.words[kResident].load(memory_order_relaxed));
}

}  // namespace

void record_history(History* history, const HistoryFigures& figures, uint64_t now) {
  if (is_peak(history, figures.resident)) {
    uint64_t number = history->peaks_written.load(memory_order_relaxed);
    write_entry(&history->peaks[number % kPeakEntries], number, figures);
    history->peaks_written.store(number + 1, memory_order_relaxed);
  }
  uint64_t number = history->entries_written.load(memory_order_relaxed);
  if (number != 0 && now < history->last_entry.load(memory_order_relaxed) + kHistoryInterval) return;
  write_entry(&history->ring[number % kHistoryEntries], number, figures);
  history->last_entry.store(now, memory_order_relaxed);
  history->entries_written.store(number + 1, memory_order_relaxed);
}

}  // namespace hakmem::telemetry
