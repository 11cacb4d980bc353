// The stats page: what a process tells the world about its heap, in one file.
//
//   offset 0                 PageHeader
//   kControlOffset           Control, the switches of a running process
//   kPublishOffset           kPublishSlots figures that the publisher stores
//   kHistoryOffset           History, the last minutes and the peak
//   kShardsOffset            shard_count shards of kShardSlots counters
//
// Written in place through a shared mapping by the process that owns it, read
// from outside by pread alone, so that neither side needs the other to be alive
// or well-meaning. A change of anything here changes kLayoutVersion; a change of
// the catalogue changes the hash by itself.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "allocator/metrics/catalogue.h"
#include "telemetry/control.h"
#include "telemetry/history.h"

namespace hakmem::telemetry {

using metrics::kMaxShards;
using Slot = std::atomic<uint64_t>;

inline constexpr uint64_t kPageMagic = 0x3165676170616b68;  // "hkapage1" in memory
inline constexpr uint32_t kLayoutVersion = 4;
inline constexpr uint32_t kFirstShards = 2;  // of the page of one thread: for that, and for all others

constexpr uint64_t hash_text(uint64_t hash, const char* text) {
  for (; *text != '\0'; ++text) hash = (hash ^ static_cast<uint8_t>(*text)) * 0x100000001b3;  // FNV-1a
  return (hash ^ 0xff) * 0x100000001b3;
}

constexpr uint64_t hash_number(uint64_t hash, uint64_t number) {
  for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (number >> (8 * byte) & 0xff)) * 0x100000001b3;
  return hash;
}

// Changes with every change of the rows that decides what a slot means.
constexpr uint64_t catalogue_hash() {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
    const metrics::MetricShape& shape = metrics::kShapes[i];
    if (shape.storage == metrics::Storage::Serve) continue;
    hash = hash_text(hash, metrics::kTexts[i].name);
    hash = hash_number(hash, static_cast<uint64_t>(shape.kind) << 16 | static_cast<uint64_t>(shape.storage) << 8 |
                                 static_cast<uint64_t>(shape.labels));
    hash = hash_number(hash, shape.slots());
  }
  return hash;
}

inline constexpr uint64_t kCatalogueHash = catalogue_hash();

// Who a page belongs to. A pid alone can be used again; with the start time it
// cannot. An exec keeps both, so the nonce tells the programs apart.
struct Identity {
  uint64_t pid_namespace;  // inode of /proc/self/ns/pid
  uint64_t start_time;     // field 22 of /proc/self/stat, clock ticks since boot
  uint64_t nonce;          // random, new with every exec and fork
  uint32_t pid;
  uint32_t reserved;
  char comm[16];
};

// Whether a process answers scrapes itself; its descendants then do not.
enum class ServingState : uint32_t { No, Yes, Soon };

struct PageHeader {
  std::atomic<uint64_t> magic;  // stored last, so that a page half made is not read
  uint32_t layout_version;
  uint32_t header_bytes;
  uint64_t catalogue_hash;
  Identity identity;
  char version[16];
  char build[16];
  std::atomic<uint32_t> shard_count;  // a power of two; grows only
  std::atomic<uint32_t> serving;      // a ServingState
  // Odd while the publisher stores its figures: a reader that sees an odd
  // number, or two different ones, reads again.
  std::atomic<uint64_t> publish_epoch;
  uint32_t class_bytes[metrics::kSizeClassCount];  // size of one object; 0 for large and huge
};

inline constexpr size_t kPublishOffset = 1024;
inline constexpr size_t kControlOffset = kPublishOffset - sizeof(Control);
static_assert(sizeof(PageHeader) <= kControlOffset);
static_assert(std::atomic<uint64_t>::is_always_lock_free);
inline constexpr size_t kHistoryOffset = (kPublishOffset + metrics::kPublishSlots * sizeof(Slot) + 63) / 64 * 64;
inline constexpr size_t kShardsOffset = (kHistoryOffset + sizeof(History) + 63) / 64 * 64;

constexpr size_t page_bytes(uint32_t shards) {
  size_t bytes = kShardsOffset + shards * size_t{metrics::kShardSlots} * sizeof(Slot);
  return (bytes + 4095) / 4096 * 4096;
}

static_assert(page_bytes(kFirstShards) <= 48 * 1024);
static_assert(page_bytes(kMaxShards) <= 512 * 1024);

inline Slot* publish_slots(void* page) { return reinterpret_cast<Slot*>(static_cast<char*>(page) + kPublishOffset); }
inline Control* control(void* page) { return reinterpret_cast<Control*>(static_cast<char*>(page) + kControlOffset); }
inline History* history(void* page) { return reinterpret_cast<History*>(static_cast<char*>(page) + kHistoryOffset); }
inline Slot* shard_slots(void* page) { return reinterpret_cast<Slot*>(static_cast<char*>(page) + kShardsOffset); }

// Published gauges are doubles, so that ratios and the one signed figure need no
// rules of their own; NaN is "not measured" and is not shown. Published
// counters are integers.
constexpr uint64_t encode_gauge(double value) { return std::bit_cast<uint64_t>(value); }
constexpr double decode_gauge(uint64_t slot) { return std::bit_cast<double>(slot); }
inline constexpr double kNotMeasured = __builtin_nan("");

template <class Visit>
constexpr void for_each_published_gauge(Visit visit) {
  for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
    const metrics::MetricShape& shape = metrics::kShapes[i];
    if (shape.storage != metrics::Storage::Publish || shape.kind != metrics::Kind::Gauge) continue;
    uint32_t first = metrics::first_slot(static_cast<metrics::Metric>(i));
    for (uint32_t slot = first; slot < first + shape.slots(); ++slot) visit(slot);
  }
}

// Name of a page's file: hakmem.NAMESPACE.PID.STARTTIME, all decimal.
inline constexpr const char* kPagePrefix = "hakmem.";

}  // namespace hakmem::telemetry
