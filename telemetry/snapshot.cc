#include "telemetry/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <thread>

#include "telemetry/publication.h"

namespace hakmem::telemetry {
namespace {

using metrics::kShardSlots;
using metrics::Metric;
using metrics::PageProblem;

constexpr PageVerdict kGood{PageState::Good, PageProblem::kCount};
constexpr PageVerdict kUnfinished{PageState::Unfinished, PageProblem::kCount};
constexpr PageVerdict kUnread{PageState::Unread, PageProblem::Unreadable};
constexpr PageVerdict bad(PageProblem problem) { return {PageState::Bad, problem}; }

constexpr int kAttempts = 64;

// Where a page is read from: copies 64-bit words at a multiple of 8.
class FileSource {
 public:
  explicit FileSource(int fd) : fd_(fd) {}

  bool copy(size_t offset, uint64_t* words, size_t count) {
    auto* target = reinterpret_cast<char*>(words);
    size_t left = count * sizeof *words;
    while (left > 0) {
      ssize_t length = pread(fd_, target, left, static_cast<off_t>(offset));
      if (length < 0 && errno == EINTR) continue;
      has_failed_ |= length < 0;
      if (length <= 0) return false;
      target += length;
      offset += static_cast<size_t>(length);
      left -= static_cast<size_t>(length);
    }
    return true;
  }

  size_t bytes() {
    struct stat status {};
    if (fstat(fd_, &status) != 0) has_failed_ = true;
    return status.st_size > 0 ? static_cast<size_t>(status.st_size) : 0;
  }

  // Whether the kernel has refused: for want of memory, say, where the page was swapped out.
  bool has_failed() const { return has_failed_; }

 private:
  int fd_;
  bool has_failed_ = false;
};

class MemorySource {
 public:
  MemorySource(const void* page, size_t bytes) : page_(static_cast<const char*>(page)), bytes_(bytes) {}

  bool copy(size_t offset, uint64_t* words, size_t count) {
    if (offset + count * sizeof *words > bytes_) return false;
    const auto* slots = reinterpret_cast<const Slot*>(page_ + offset);
    for (size_t i = 0; i < count; ++i) words[i] = slots[i].load(std::memory_order_relaxed);
    return true;
  }

  size_t bytes() const { return bytes_; }

 private:
  const char* page_;
  size_t bytes_;
};

static_assert(sizeof(PageHeader) % sizeof(uint64_t) == 0);

template <class Source>
bool read_header(Source& source, PageHeader* header) {
  uint64_t words[sizeof(PageHeader) / sizeof(uint64_t)] = {};
  // The magic first, by itself: of a page that has it the rest is there.
  static_assert(offsetof(PageHeader, magic) == 0);
  if (!Publication<>::read_finished([&] { return source.copy(0, words, 1); },
                                    [&] { return source.copy(sizeof *words, words + 1, std::size(words) - 1); }))
    return false;
  memcpy(static_cast<void*>(header), words, sizeof words);
  return true;
}

// Text from a page, fit for a label: another process may have put anything there.
std::string printable(const char* text, size_t bytes) {
  std::string result(text, strnlen(text, bytes));
  for (char& c : result)
    if (c < ' ' || c > '~') c = '?';
  return result;
}

// Sizes of the classes rise, up to the first that there is none of; what does not
// would give two series one name.
bool are_classes(const uint32_t* class_bytes) {
  for (uint32_t i = 1; i < metrics::kSlabClassCount; ++i)
    if (class_bytes[i] != 0 && (class_bytes[i - 1] == 0 || class_bytes[i] <= class_bytes[i - 1])) return false;
  return true;
}

template <class Source>
PageVerdict check(Source& source, PageHeader* copy, uint32_t* shards) {
  if (!read_header(source, copy)) return source.bytes() == 0 ? kUnfinished : bad(PageProblem::NotAPage);
  const PageHeader& header = *copy;
  uint64_t magic = header.magic.load(std::memory_order_relaxed);
  if (magic == 0) return kUnfinished;
  if (magic != kPageMagic) return bad(PageProblem::NotAPage);
  if (header.layout_version != kLayoutVersion) return bad(PageProblem::ForeignVersion);
  if (header.catalogue_hash != kCatalogueHash) return bad(PageProblem::ForeignCatalogue);
  if (header.header_bytes != sizeof(PageHeader)) return bad(PageProblem::Damaged);
  *shards = header.shard_count.load(std::memory_order_relaxed);
  if (*shards == 0 || *shards > kMaxShards || (*shards & (*shards - 1)) != 0) return bad(PageProblem::Damaged);
  if (!are_classes(header.class_bytes)) return bad(PageProblem::Damaged);
  // Asked once: whoever owns the file may cut it at any time.
  size_t bytes = source.bytes();
  if (bytes < page_bytes(1)) return bad(PageProblem::Damaged);
  // A page that grew since the caller asked for its size: the new shards come next time.
  while (page_bytes(*shards) > bytes) *shards /= 2;
  return kGood;
}

template <class Source>
bool read_published(Source& source, std::vector<uint64_t>* published) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Reading reading =
        Publication<>::read([&](uint64_t* epoch) { return source.copy(offsetof(PageHeader, publish_epoch), epoch, 1); },
                            [&] { return source.copy(kPublishOffset, published->data(), published->size()); });
    if (reading != Reading::Torn) return reading == Reading::Whole;
    std::this_thread::yield();
  }
  // Its owner was killed between two stores: each figure is whole, their moments differ.
  return true;
}

template <class Source>
bool add_counters(Source& source, uint32_t shards, uint32_t first, uint32_t count, uint64_t* sums) {
  std::vector<uint64_t> words(count);
  std::fill(sums, sums + count, 0);
  for (uint32_t shard = 0; shard < shards; ++shard) {
    size_t slot = size_t{shard} * kShardSlots + first;
    if (!source.copy(kShardsOffset + slot * sizeof(Slot), words.data(), count)) return false;
    for (uint32_t i = 0; i < count; ++i) sums[i] += words[i];
  }
  return true;
}

struct NumberedFigures {
  uint64_t number;
  HistoryFigures figures;
};

// The entries that both of two copies hold, oldest first; one that was being
// written meanwhile, or when the process was killed, is left out.
std::vector<NumberedFigures> whole_entries(const HistoryEntry* first, const HistoryEntry* second, size_t count) {
  std::vector<NumberedFigures> whole;
  for (size_t i = 0; i < count; ++i) {
    uint64_t sequence = first[i].sequence.load(std::memory_order_relaxed);
    uint64_t number = sequence / 2 - 1;
    if (sequence == 0 || sequence % 2 != 0 || number % count != i) continue;
    if (second[i].sequence.load(std::memory_order_relaxed) != sequence) continue;
    HistoryWords words;
    for (size_t word = 0; word < kHistoryWords; ++word)
      words[word] = first[i].words[word].load(std::memory_order_relaxed);
    whole.push_back({number, std::bit_cast<HistoryFigures>(words)});
  }
  std::sort(whole.begin(), whole.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
  return whole;
}

}  // namespace

template <class Source>
PageVerdict read_from(Source& source, Snapshot* snapshot) {
  PageHeader header{};
  uint32_t shards = 0;
  if (PageVerdict verdict = check(source, &header, &shards); !verdict.good()) return verdict;
  snapshot->identity = header.identity;
  snapshot->comm = printable(header.identity.comm, sizeof header.identity.comm);
  snapshot->version = printable(header.version, sizeof header.version);
  snapshot->build = printable(header.build, sizeof header.build);
  snapshot->serving = header.serving.load(std::memory_order_relaxed) == static_cast<uint32_t>(ServingState::Yes);
  std::copy(std::begin(header.class_bytes), std::end(header.class_bytes), std::begin(snapshot->class_bytes));

  snapshot->published_.resize(metrics::kPublishSlots);
  if (!read_published(source, &snapshot->published_)) return bad(PageProblem::Damaged);

  constexpr uint32_t kCollected = metrics::kFirstSlot<Metric::kCollectedObjects>;
  constexpr uint32_t kCollectedCount = metrics::shape_of(Metric::kCollectedObjects).slots();
  std::vector<uint64_t> collected(kCollectedCount);
  snapshot->counters_.resize(kShardSlots);
  if (!add_counters(source, shards, kCollected, kCollectedCount, collected.data())) return bad(PageProblem::Damaged);
  std::atomic_thread_fence(std::memory_order_acquire);
  if (!add_counters(source, shards, 0, kShardSlots, snapshot->counters_.data())) return bad(PageProblem::Damaged);
  std::copy(collected.begin(), collected.end(), snapshot->counters_.begin() + kCollected);
  return kGood;
}

PageVerdict read_snapshot(int fd, Snapshot* snapshot) {
  FileSource source(fd);
  PageVerdict verdict = read_from(source, snapshot);
  return source.has_failed() ? kUnread : verdict;
}

PageVerdict read_snapshot(const void* page, size_t bytes, Snapshot* snapshot) {
  MemorySource source(page, bytes);
  return read_from(source, snapshot);
}

PageHistory read_history(int fd) {
  FileSource source(fd);
  History copies[2]{};
  PageHistory history;
  for (History& copy : copies)
    if (!source.copy(kHistoryOffset, reinterpret_cast<uint64_t*>(&copy), sizeof copy / sizeof(uint64_t)))
      return history;
  for (const NumberedFigures& entry : whole_entries(copies[0].ring, copies[1].ring, kHistoryEntries))
    history.entries.push_back(entry.figures);
  if (auto peaks = whole_entries(copies[0].peaks, copies[1].peaks, kPeakEntries); !peaks.empty())
    history.peak = peaks.back().figures;
  return history;
}

int open_page(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  struct stat status {};
  if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
    close(fd);
    return -1;
  }
  return fd;
}

uint64_t Snapshot::counter(Metric metric, uint32_t index) const {
  const auto& slots = metrics::shape_of(metric).storage == metrics::Storage::Shard ? counters_ : published_;
  return slots[metrics::first_slot(metric) + index];
}

double Snapshot::gauge(Metric metric, uint32_t index) const {
  return decode_gauge(published_[metrics::first_slot(metric) + index]);
}

Snapshot Snapshot::empty() {
  Snapshot snapshot;
  snapshot.counters_.resize(kShardSlots);
  snapshot.published_.resize(metrics::kPublishSlots);
  for_each_published_gauge([&](uint32_t slot) { snapshot.published_[slot] = encode_gauge(kNotMeasured); });
  return snapshot;
}

template <class Combine>
void Snapshot::combine_counters(const Snapshot& other, Combine combine) {
  for (size_t i = 0; i < counters_.size(); ++i) combine(counters_[i], other.counters_[i]);
  for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
    const metrics::MetricShape& shape = metrics::kShapes[i];
    if (shape.storage != metrics::Storage::Publish || shape.kind != metrics::Kind::Counter) continue;
    uint32_t first = metrics::first_slot(static_cast<Metric>(i));
    for (uint32_t slot = first; slot < first + shape.slots(); ++slot) combine(published_[slot], other.published_[slot]);
  }
}

void Snapshot::add_counters_of(const Snapshot& other) {
  combine_counters(other, [](uint64_t& sum, uint64_t value) { sum += value; });
}

void Snapshot::subtract_counters_of(const Snapshot& other) {
  combine_counters(other, [](uint64_t& sum, uint64_t value) { sum -= value; });
}

void Snapshot::add_gauges_of(const Snapshot& other) {
  for (size_t i = 0; i < metrics::kShapes.size(); ++i) {
    const metrics::MetricShape& shape = metrics::kShapes[i];
    std::string_view name = metrics::kTexts[i].name;
    if (shape.storage != metrics::Storage::Publish || shape.kind != metrics::Kind::Gauge) continue;
    if (name.ends_with("_ratio") || name.ends_with("_timestamp_seconds")) continue;
    uint32_t first = metrics::first_slot(static_cast<Metric>(i));
    for (uint32_t slot = first; slot < first + shape.slots(); ++slot) {
      double value = decode_gauge(other.published_[slot]);
      double sum = decode_gauge(published_[slot]);
      if (!std::isnan(value)) published_[slot] = encode_gauge(std::isnan(sum) ? value : sum + value);
    }
  }
}

}  // namespace hakmem::telemetry
