// Series made from snapshots: how many, which, and that none ever falls.
#include "exporter/exposition.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "exporter/http_server.h"
#include "exporter/served_pages.h"
#include "tests/exporter/made_page.h"

namespace hakmem::exporter {
namespace {

using metrics::Metric;
using telemetry::Snapshot;

constexpr double kMebibyte = 1 << 20;

// Series by "family{label=value,...}", with the parts of histograms counted as Prometheus does.
struct Rendered {
  std::map<std::string, double> values;
  size_t series = 0;
};

Rendered render(MadePage& page, SizeClassRows& rows, Detail detail, const Labels& process = {}) {
  Snapshot snapshot = page.snapshot();
  rows.update(snapshot);
  Exposition exposition;
  exposition.add(snapshot, rows, process, detail);
  Rendered rendered;
  for (const prometheus::MetricFamily& family : exposition.take())
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::string key = family.name + "{";
      for (const auto& label : metric.label) key += label.name + "=" + label.value + ",";
      bool is_counter = family.type == prometheus::MetricType::Counter;
      EXPECT_TRUE(rendered.values.emplace(key + "}", is_counter ? metric.counter.value : metric.gauge.value).second)
          << key;
      rendered.series += family.type == prometheus::MetricType::Histogram ? metric.histogram.bucket.size() + 2 : 1;
    }
  return rendered;
}

TEST(Exposition, AProcessThatUsesEverythingHasAtMostTwoThousandSeries) {
  MadePage page;
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class) {
    page.refill(size_class, 1000);
    page.set(Metric::kSlabBytes, size_class, 10 << 20);
  }
  SizeClassRows rows;
  Rendered full = render(page, rows, Detail::Full);
  EXPECT_EQ(rows.shown().size(), kMaxSizeClassRows);
  EXPECT_LE(full.series, 2000u);
  EXPECT_GE(full.series, 500u);
  EXPECT_LE(render(page, rows, Detail::Summary).series, 60u);
}

TEST(Exposition, OnlySizeClassesInUseHaveRows) {
  MadePage page;
  page.refill(3, 10);
  page.set(Metric::kSlabBytes, metrics::kHugeClass, 1 << 20);
  SizeClassRows rows;
  Rendered rendered = render(page, rows, Detail::Full);
  EXPECT_EQ(rendered.values.count("hakmem_live_bytes{size_class=64,}"), 1u);
  EXPECT_EQ(rendered.values.count("hakmem_live_bytes{size_class=huge,}"), 1u);
  EXPECT_EQ(rendered.values.count("hakmem_live_bytes{size_class=80,}"), 0u);
  EXPECT_EQ(rendered.values.count("hakmem_live_bytes{size_class=other,}"), 0u);
}

TEST(Exposition, TheHeaviestClassesAreShownAndTheRestIsSummed) {
  MadePage page;
  for (uint32_t size_class = 0; size_class < 40; ++size_class) {
    page.refill(size_class, 10);
    page.set(Metric::kSlabBytes, size_class, kMebibyte * (size_class + 1));
    page.set(Metric::kSlabOccupancy, size_class, size_class < 8 ? 1 : 0.5);
  }
  SizeClassRows rows;
  Rendered rendered = render(page, rows, Detail::Full);
  EXPECT_EQ(rendered.values.count("hakmem_slab_bytes{size_class=640,}"), 1u);
  EXPECT_EQ(rendered.values.count("hakmem_slab_bytes{size_class=256,}"), 0u);
  EXPECT_EQ(rendered.values["hakmem_slab_bytes{size_class=other,}"], kMebibyte * 18 * 19 / 2);
  EXPECT_EQ(rendered.values["hakmem_refill_objects_total{size_class=other,source=own_frees,}"], 180);
  // Classes of 1 to 8 MiB are full, those of 9 to 18 half-full.
  EXPECT_NEAR(rendered.values["hakmem_slab_occupancy_ratio{size_class=other,}"], (36.0 + 135.0 / 2) / 171, 1e-9);
}

TEST(Exposition, AClassThatWasShownStaysShownAndAHeavyOneComesLater) {
  MadePage page;
  for (uint32_t size_class = 0; size_class < 40; ++size_class) page.refill(size_class, 40 - size_class);
  SizeClassRows rows;
  Rendered first = render(page, rows, Detail::Full);
  EXPECT_EQ(rows.shown().size(), 12u);
  double other = first.values["hakmem_refill_objects_total{size_class=other,source=own_frees,}"];
  ASSERT_FALSE(rows.is_shown(0)) << "it is not the heaviest";

  page.refill(0, 100'000'000);
  page.set(Metric::kSlabBytes, 0, 1000 * kMebibyte);
  page.refill(90, 100);
  page.set(Metric::kSlabBytes, 90, 2 * kMebibyte);  // a MiB, but not 1 % of the heap
  Rendered later = render(page, rows, Detail::Full);
  EXPECT_EQ(rows.shown().size(), 13u);
  EXPECT_EQ(later.values["hakmem_refill_objects_total{size_class=other,source=own_frees,}"], other + 100 + 100'000'000)
      << "what it counted until it was shown stays there";
  page.refill(0, 50);
  later = render(page, rows, Detail::Full);
  EXPECT_EQ(later.values["hakmem_refill_objects_total{size_class=16,source=own_frees,}"], 50);
  page.set(Metric::kSlabBytes, 0, 0);
  later = render(page, rows, Detail::Full);
  EXPECT_EQ(later.values.count("hakmem_slab_bytes{size_class=16,}"), 1u);
}

TEST(Exposition, LargeAndHugeHaveRowsHoweverManyClassesAreInUse) {
  MadePage page;
  for (uint32_t size_class = 0; size_class < metrics::kSlabClassCount; ++size_class)
    page.set(Metric::kSlabBytes, size_class, 100 * kMebibyte);
  SizeClassRows rows;
  render(page, rows, Detail::Full);
  EXPECT_FALSE(rows.is_shown(metrics::kHugeClass)) << "not in use";
  page.set(Metric::kSlabBytes, metrics::kLargeClass, 1);
  page.set(Metric::kSlabBytes, metrics::kHugeClass, 1);
  render(page, rows, Detail::Full);
  EXPECT_TRUE(rows.is_shown(metrics::kLargeClass));
  EXPECT_TRUE(rows.is_shown(metrics::kHugeClass));
  EXPECT_LE(rows.shown().size(), kMaxSizeClassRows);
}

TEST(Exposition, NoCounterFallsAndNothingIsCountedTwiceWhenClassesComeIntoUse) {
  MadePage page;
  SizeClassRows rows;
  Rendered last;
  uint64_t total = 0;
  for (uint32_t round = 0; round < 300; ++round) {
    uint32_t size_class = round * 7 % metrics::kSlabClassCount;
    page.refill(size_class, round + 1);
    total += round + 1;
    Rendered now = render(page, rows, Detail::Full);
    double sum = 0;
    for (const auto& [key, value] : now.values)
      if (key.starts_with("hakmem_refill_objects_total")) sum += value;
    EXPECT_EQ(sum, static_cast<double>(total));
    for (const auto& [key, value] : last.values)
      if (key.find("_total{") != std::string::npos) {
        EXPECT_GE(now.values.at(key), value) << key;
      }
    last = now;
  }
}

TEST(Exposition, WhatWasNotMeasuredHasNoSeries) {
  MadePage page;
  page.set(Metric::kProcessResidentBytes, 0, telemetry::kNotMeasured);
  page.set(Metric::kResidentUnexplained, 0, -4096);
  SizeClassRows rows;
  Rendered rendered = render(page, rows, Detail::Full);
  EXPECT_EQ(rendered.values.count("hakmem_process_resident_bytes{}"), 0u);
  EXPECT_EQ(rendered.values["hakmem_resident_unexplained_bytes{}"], -4096);
}

TEST(Exposition, TimesAreInSeconds) {
  MadePage page;
  page.count(Metric::kPurgeTime, 0, 2'500'000'000);
  page.count(Metric::kSuperslabRefillTime, 0, 3);                               // up to 64 ns
  page.count(Metric::kSuperslabRefillTime, metrics::kHistogramBuckets - 1, 1);  // beyond the last bound
  page.count(Metric::kSuperslabRefillTime, metrics::kHistogramBuckets, 5'000'000'000);
  Snapshot snapshot = page.snapshot();
  SizeClassRows rows;
  Exposition exposition;
  exposition.add(snapshot, rows, {}, Detail::Full);
  std::string text = serialise(exposition.take());
  EXPECT_NE(text.find("hakmem_purge_seconds_total 2.5\n"), std::string::npos);
  EXPECT_NE(text.find("hakmem_superslab_refill_seconds_sum{step=\"scan\"} 5\n"), std::string::npos);
  EXPECT_NE(text.find("hakmem_superslab_refill_seconds_count{step=\"scan\"} 4\n"), std::string::npos);
  EXPECT_NE(text.find("hakmem_superslab_refill_seconds_bucket{step=\"scan\",le=\"6.4e-08\"} 3\n"), std::string::npos);
  EXPECT_NE(text.find("hakmem_superslab_refill_seconds_bucket{step=\"scan\",le=\"+Inf\"} 4\n"), std::string::npos);
}

TEST(Exposition, ProcessLabelsComeWithEverySeries) {
  MadePage page;
  page.refill(1, 1);
  SizeClassRows rows;
  Rendered rendered = render(page, rows, Detail::Summary, {{"pid", "12"}, {"comm", "made"}});
  for (const auto& [key, value] : rendered.values) EXPECT_NE(key.find("{pid=12,comm=made,"), std::string::npos) << key;
}

TEST(HttpServer, ReadsQueries) {
  EXPECT_EQ(query_value("pid=12", "pid"), "12");
  EXPECT_EQ(query_value("a=b&pid=7&c=d", "pid"), "7");
  EXPECT_EQ(query_value("xpid=12", "pid"), "");
  EXPECT_EQ(query_value("pid", "pid"), "");
  EXPECT_EQ(query_value("", "pid"), "");
}

}  // namespace
}  // namespace hakmem::exporter
