#include "exporter/heap_profile.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <span>

#include "exporter/address_space.h"
#include "exporter/pprof.h"
#include "telemetry/snapshot.h"

namespace hakmem::exporter {
namespace {

using telemetry::Amounts;
using telemetry::kPartsOfObject;
using telemetry::ModuleHost;
using telemetry::ProfileTotals;
using telemetry::SampleFigures;
using telemetry::SiteFigures;

constexpr uint64_t kMaxSeconds = 300;

// The profile as of one moment.
struct Moment {
  std::vector<SiteFigures> sites;
  std::vector<SampleFigures> samples;
  ProfileTotals totals{};
  uint64_t time = 0;  // CLOCK_REALTIME, nanoseconds
};

Moment copy(const ModuleHost& host, bool with_samples) {
  Moment moment;
  // What is copied may grow between the question how much it is and the copy.
  for (int attempt = 0; attempt < 8; ++attempt) {
    if (!host.copy_profile(moment.sites.data(), moment.sites.size(), with_samples ? moment.samples.data() : nullptr,
                           moment.samples.size(), &moment.totals))
      break;
    const ProfileTotals& totals = moment.totals;
    if (totals.sites <= moment.sites.size() && (!with_samples || totals.samples <= moment.samples.size())) {
      moment.sites.resize(totals.sites);
      moment.samples.resize(with_samples ? totals.samples : 0);
      timespec now{};
      clock_gettime(CLOCK_REALTIME, &now);
      moment.time = static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
      return moment;
    }
    moment.sites.resize(totals.sites + totals.sites / 8 + 64);
    if (with_samples) moment.samples.resize(totals.samples + totals.samples / 8 + 64);
  }
  throw Unavailable("the heap profile is being changed");
}

// Values of a sample, by type.
using Values = std::array<int64_t, 3>;

int64_t whole_objects(uint64_t parts) { return static_cast<int64_t>((parts + kPartsOfObject / 2) / kPartsOfObject); }

Values values_of(const Amounts& amounts) {
  return {whole_objects(amounts.objects), static_cast<int64_t>(amounts.requested), static_cast<int64_t>(amounts.bytes)};
}

Values live_values(const SiteFigures& site, size_t) { return values_of(site.live); }
Values allocated_values(const SiteFigures& site, size_t) { return values_of(site.allocated); }
Values peak_values(const SiteFigures& site, size_t) { return values_of(site.peak); }
Values lifetime_values(const SiteFigures& site, size_t group) {
  return {whole_objects(site.freed[group].objects), static_cast<int64_t>(site.freed[group].seconds * 1e9), 0};
}

struct Kind {
  std::string_view path;
  std::vector<Pprof::ValueType> types;  // the first of Values
  Values (*values)(const SiteFigures&, size_t group);
  bool has_difference;
  std::span<const char* const> groups = {};  // samples of a stack, by the label "lifetime"
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> kAll{
      {"/debug/pprof/heap",
       {{"inuse_objects", "count"}, {"inuse_requested", "bytes"}, {"inuse_space", "bytes"}},
       live_values,
       true},
      {"/debug/pprof/allocs",
       {{"alloc_objects", "count"}, {"alloc_requested", "bytes"}, {"alloc_space", "bytes"}},
       allocated_values,
       true},
      {"/debug/pprof/peak",
       {{"peak_objects", "count"}, {"peak_requested", "bytes"}, {"peak_space", "bytes"}},
       peak_values,
       false},
      {"/debug/pprof/lifetimes",
       {{"freed_objects", "count"}, {"lifetime", "nanoseconds"}},
       lifetime_values,
       true,
       telemetry::kAgeNames},
  };
  return kAll;
}

Response finish(Pprof& profile, const Moment& moment) {
  if (moment.totals.dropped != 0)
    profile.add_comment(std::to_string(moment.totals.dropped) + " samples found no place in the profile");
  AddressSpace addresses;
  return {.content_type = "application/octet-stream", .body = profile.finish(addresses)};
}

// Of the sites of `now`, less what they had `before`. Sites are only ever added.
Response render(const Kind& kind, const Moment& now, const Moment* before) {
  Pprof profile(kind.types, now.totals.interval);
  profile.set_time(now.time, before == nullptr ? 0 : now.time - before->time);
  for (size_t i = 0; i < now.sites.size(); ++i) {
    const SiteFigures& site = now.sites[i];
    for (size_t group = 0; group < std::max<size_t>(kind.groups.size(), 1); ++group) {
      Values values = kind.values(site, group);
      if (before != nullptr && i < before->sites.size()) {
        Values earlier = kind.values(before->sites[i], group);
        for (size_t type = 0; type < values.size(); ++type) values[type] -= earlier[type];
      }
      Pprof::Label label{};
      if (!kind.groups.empty()) label = {"lifetime", kind.groups[group]};
      if (values != Values{}) profile.add({site.stack, site.stack_size}, {values.data(), kind.types.size()}, label);
    }
  }
  if (kind.values == peak_values && now.totals.peak_time != 0) profile.set_time(now.totals.peak_time, 0);
  return finish(profile, now);
}

// The free bytes of a class's part-full slabs, shared out over its live samples by what
// these pin.
Response render_fragmentation(const ModuleHost& host) {
  size_t bytes = 0;
  const void* page = host.refresh(&bytes);
  telemetry::Snapshot snapshot;
  if (page == nullptr || !telemetry::read_snapshot(page, bytes, &snapshot).good())
    throw Unavailable("no figures can be had");
  Moment now = copy(host, true);
  std::array<double, metrics::kSizeClassCount> all{};
  for (const SampleFigures& sample : now.samples) all[sample.size_class] += sample.pinned;
  struct Share {
    double objects = 0, pinned = 0;
  };
  std::vector<Share> shares(now.sites.size());
  for (const SampleFigures& sample : now.samples) {
    constexpr auto kExternal = static_cast<uint32_t>(metrics::Fragmentation::External);
    double pinned = snapshot.gauge(metrics::Metric::kClassFragmentationBytes,
                                   sample.size_class * metrics::kCountOf<metrics::Fragmentation> + kExternal);
    if (!(pinned > 0) || sample.pinned == 0) continue;
    Share& share = shares[sample.site];
    share.objects += static_cast<double>(sample.amounts.objects) / kPartsOfObject;
    share.pinned += pinned * sample.pinned / all[sample.size_class];
  }
  constexpr Pprof::ValueType kTypes[] = {{"inuse_objects", "count"}, {"pinned_space", "bytes"}};
  Pprof profile(kTypes, now.totals.interval);
  profile.set_time(now.time, 0);
  for (size_t i = 0; i < shares.size(); ++i) {
    int64_t values[] = {static_cast<int64_t>(shares[i].objects), static_cast<int64_t>(shares[i].pinned)};
    if (values[1] != 0) profile.add({now.sites[i].stack, now.sites[i].stack_size}, values);
  }
  return finish(profile, now);
}

Response answer_kind(const ModuleHost& host, const Kind& kind, std::string_view seconds_text) {
  if (seconds_text.empty()) return render(kind, copy(host, false), nullptr);
  uint64_t seconds = 0;
  auto [end, error] = std::from_chars(seconds_text.data(), seconds_text.data() + seconds_text.size(), seconds);
  if (error != std::errc{} || end != seconds_text.data() + seconds_text.size() || seconds == 0 || seconds > kMaxSeconds)
    return {.status = 400, .body = "seconds is a number from 1 to " + std::to_string(kMaxSeconds) + "\n"};
  if (!kind.has_difference) return {.status = 400, .body = "there is no difference of this profile\n"};
  Response response;
  response.delay = std::chrono::seconds(seconds);
  response.then = [&host, &kind, before = std::make_shared<Moment>(copy(host, false))] {
    return render(kind, copy(host, false), before.get());
  };
  return response;
}

}  // namespace

std::vector<Route> profile_routes(const ModuleHost& host) {
  std::vector<Route> routes;
  for (const Kind& kind : kinds())
    routes.push_back({kind.path, [&](const Request& request) {
                        return answer_kind(host, kind, query_value(request.query, "seconds"));
                      }});
  routes.push_back({"/debug/pprof/fragmentation", [&](const Request&) { return render_fragmentation(host); }});
  return routes;
}

}  // namespace hakmem::exporter
