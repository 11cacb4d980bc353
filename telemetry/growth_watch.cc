#include "telemetry/growth_watch.h"

#include <algorithm>

#include "allocator/metrics/heap_view.h"
#include "telemetry/heap_books.h"

namespace hakmem::telemetry {
namespace {

// Sites looked at with the lock held, which samples wait for.
constexpr size_t kSitesAtOnce = 512;

// The serving thread's own.
struct Watch {
  uint64_t start;     // of the first window; CLOCK_MONOTONIC, nanoseconds
  uint64_t begin;     // of this one
  uint64_t interval;  // of samples, the longest that much of what is live may come from
};
constinit Watch watch{};

void offer(Suspects* list, uint32_t site) {
  auto grown = [](uint32_t index) { return profile.sites[index].growth.grown(); };
  if (list->count == kMaxSuspects) {
    if (grown(site) <= grown(list->sites[kMaxSuspects - 1])) return;
    --list->count;
  }
  size_t place = list->count++;
  for (; place > 0 && grown(list->sites[place - 1]) < grown(site); --place) list->sites[place] = list->sites[place - 1];
  list->sites[place] = site;
}

}  // namespace

void watch_growth(uint64_t now) {
  bool is_first = watch.begin == 0;
  if (!is_first && now - watch.begin < window_length(watch.begin - watch.start)) return;
  // What was sampled seldom lives on when samples come often again: the bounds of chance follow by halves.
  uint64_t longest = profile.longest_interval.exchange(0, std::memory_order_relaxed);
  uint64_t interval = watch.interval = std::max({metrics::sample_interval(), longest, watch.interval / 2});
  Suspects suspects{};
  for (size_t first = 0;; first += kSitesAtOnce) {
    ReadingScope scope;
    if (!scope) return;  // then this window is a longer one
    size_t end = std::min(first + kSitesAtOnce, profile.sites.size());
    for (size_t i = first; i < end; ++i) {
      Site& site = profile.sites[i];
      if (!is_first) close_window(&site.growth, site.floor, watch.begin, now, interval);
      site.floor = site.live.bytes;
      if (is_suspect(site.growth, interval)) offer(&suspects, static_cast<uint32_t>(i));
    }
    if (end < first + kSitesAtOnce) {
      profile.suspects = suspects;
      break;
    }
  }
  if (is_first) watch.start = now;
  watch.begin = now;
}

size_t copy_suspects(SiteFigures* sites, size_t capacity) {
  ReadingScope scope;
  if (!scope) return 0;
  size_t count = std::min(profile.suspects.count, capacity);
  for (size_t i = 0; i < count; ++i) sites[i] = figures_of(profile.sites[profile.suspects.sites[i]]);
  return count;
}

}  // namespace hakmem::telemetry
