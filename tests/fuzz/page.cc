#include "tests/fuzz/page.h"

#include <algorithm>
#include <new>
#include <unordered_set>

namespace hakmem::fuzz {

using telemetry::PageHeader;
using telemetry::Slot;

std::string good_page(const telemetry::Identity& identity, uint32_t shards) {
  std::string page(telemetry::page_bytes(shards), '\0');
  auto* header = new (page.data()) PageHeader{};
  header->layout_version = telemetry::kLayoutVersion;
  header->header_bytes = sizeof(PageHeader);
  header->catalogue_hash = telemetry::kCatalogueHash;
  header->identity = identity;
  strcpy(header->version, "0.1.0");
  strcpy(header->build, "telemetry");
  header->shard_count.store(shards);
  for (uint32_t i = 0; i < metrics::kSlabClassCount; ++i) header->class_bytes[i] = 16 * (i + 1);
  header->magic.store(telemetry::kPageMagic);
  Slot* figures = telemetry::publish_slots(header);
  telemetry::for_each_published_gauge(
      [&](uint32_t slot) { figures[slot].store(telemetry::encode_gauge(telemetry::kNotMeasured)); });
  return page;
}

std::string take_page(Input* input, const telemetry::Identity& identity) {
  auto kind = input->take<uint8_t>();
  if (kind >= 0xF0) return input->take_text(input->take<uint16_t>());
  std::string page = good_page(identity, 1u << kind % 3);
  for (auto words = input->take<uint8_t>(); words > 0 && !input->empty(); --words) {
    size_t word = input->take<uint16_t>() % (page.size() / sizeof(uint64_t));
    auto value = input->take<uint64_t>();
    memcpy(page.data() + word * sizeof value, &value, sizeof value);
  }
  // Cut off somewhere, now and then.
  if (kind >= 0xC0) page.resize(page.size() * input->take<uint8_t>() / 256);
  return page;
}

void check_exposition(std::string_view text, size_t most_series) {
  std::unordered_set<std::string_view> names;
  size_t series = 0;
  while (!text.empty()) {
    size_t end = text.find('\n');
    HAKMEM_FUZZ_CHECK(end != std::string_view::npos);
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    HAKMEM_FUZZ_CHECK(std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; }));
    HAKMEM_FUZZ_CHECK(line.starts_with("hakmem_") || line.starts_with("# HELP hakmem_") ||
                      line.starts_with("# TYPE hakmem_"));
    if (line.starts_with("#")) continue;
    size_t value = line.rfind(' ');
    HAKMEM_FUZZ_CHECK(value != std::string_view::npos && value + 1 < line.size());
    HAKMEM_FUZZ_CHECK(names.insert(line.substr(0, value)).second);
    ++series;
  }
  HAKMEM_FUZZ_CHECK(series <= most_series);
}

}  // namespace hakmem::fuzz
