// A workload drawn from a seed: threads, sizes, lifetimes, calls, what is
// touched and who frees. The other workloads are what somebody thought of; a
// row of seeds finds what nobody did. The line of JSON tells what was drawn.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <numeric>
#include <utility>

#include "bench/macro/workload.h"

namespace {

enum class Sizes { kOne, kTwo, kEight, kLogUniform, kMostlySmall };
enum class Lifetimes { kRandom, kOldestFirst, kMostlyYoung, kStack, kBursts };
enum class Call { kMalloc, kCalloc, kRealloc, kAligned };
enum class Touch { kEnds, kLines, kWhole };

constexpr const char* kSizesText[] = {"one size", "a size and a rare other", "eight sizes", "log-uniform sizes",
                                      "mostly small sizes"};
constexpr const char* kLifetimesText[] = {"freed at random", "the oldest first", "mostly the young", "a stack",
                                          "bursts"};
constexpr const char* kCallText[] = {"malloc", "calloc", "realloc", "posix_memalign"};
constexpr const char* kTouchText[] = {"both ends", "each line", "all"};

constexpr size_t kSizesInTable = 4096;
constexpr size_t kLineBytes = 64;
constexpr uint32_t kLargestOctave = 1u << 21;  // blocks up to 4 MiB
constexpr uint64_t kCacheBytes = 4 << 20;
constexpr uint64_t kFewestSlots = 4;
constexpr uint64_t kMostSlots = 2'000'000;  // of all threads
constexpr uint64_t kMostShared = 4096;
constexpr uint64_t kWorkNanoseconds = 300'000'000;
constexpr uint64_t kProcessors = 2;  // whatever the machine has: the work must not depend on it

struct Configuration {
  uint64_t threads;
  Sizes distribution;
  std::vector<uint32_t> sizes;  // a block has any of them, each equally likely
  Lifetimes lifetimes;
  Call call;
  Touch touch;
  uint64_t passed_percent;     // of what a thread has done with: it goes to a shared table, for any thread to free
  uint64_t phases;             // nine blocks of ten go at the end of each, if there are several
  uint64_t slots, operations;  // of each thread
  uint64_t shared;             // places for what is passed
  uint64_t seed;               // of what the threads draw

  uint64_t mean_bytes() const { return std::accumulate(sizes.begin(), sizes.end(), uint64_t{0}) / sizes.size(); }
  uint64_t live_bytes() const { return threads * slots * mean_bytes(); }
};

// Any of the choices; one that stands there twice is twice as likely.
template <typename Choice, size_t count>
Choice pick(bench::Random& random, const Choice (&choices)[count]) {
  return choices[random.below(count)];
}

class SizeRange {
 public:
  // Small blocks are what programs have most.
  explicit SizeRange(bench::Random& random) {
    constexpr uint32_t kSmall[] = {16, 32, 64, 256, 1024}, kAny[] = {16, 64, 1024, 8192, 32'768, 262'144};
    low_ = random.once_in(3) ? pick(random, kAny) : pick(random, kSmall);
    high_ = std::min(low_ << random.below(9), kLargestOctave);
  }

  uint32_t draw(bench::Random& random) const { return random.log_uniform(low_, high_); }

 private:
  uint32_t low_, high_;
};

// A table, so that a block's size costs the same to draw however sizes are distributed.
std::vector<uint32_t> draw_sizes(Sizes distribution, bench::Random& random) {
  SizeRange range(random);
  std::array<uint32_t, 8> few;
  for (uint32_t& bytes : few) bytes = range.draw(random);
  std::vector<uint32_t> table(kSizesInTable);
  for (uint32_t& bytes : table) {
    switch (distribution) {
      case Sizes::kOne: bytes = few[0]; break;
      case Sizes::kTwo: bytes = random.once_in(50) ? few[1] : few[0]; break;
      case Sizes::kEight: bytes = few[random.below(few.size())]; break;
      case Sizes::kLogUniform: bytes = range.draw(random); break;
      case Sizes::kMostlySmall: bytes = std::min({range.draw(random), range.draw(random), range.draw(random)}); break;
    }
  }
  return table;
}

// About what a block costs from its allocation to its end, with an allocator that costs little.
uint64_t nanoseconds_a_block(const Configuration& drawn) {
  uint64_t bytes = drawn.mean_bytes();
  uint64_t nanoseconds = drawn.live_bytes() > kCacheBytes ? 150 : 50;
  switch (drawn.touch) {
    case Touch::kEnds: nanoseconds += bytes / 100; break;
    case Touch::kLines: nanoseconds += bytes / 20; break;
    case Touch::kWhole: nanoseconds += bytes / 10; break;
  }
  // calloc clears, realloc copies: to new pages where blocks are large.
  if (drawn.call == Call::kCalloc) nanoseconds += bytes / 20;
  if (drawn.call == Call::kRealloc) nanoseconds += bytes / 8;
  return nanoseconds;
}

// How much is live: 64 KiB to 128 MiB, and at most half of that again for what grows and what is
// passed. How much is done: some tenths of a second, but each slot twice.
void draw_amounts(Configuration& drawn, bench::Random& random) {
  uint64_t live = random.log_uniform(64 << 10, 64 << 20);
  uint64_t slots = std::min(live / drawn.mean_bytes(), kMostSlots);
  drawn.slots = std::max(slots / drawn.threads, kFewestSlots);
  drawn.shared = std::clamp<uint64_t>(slots / 4, 1, kMostShared);
  uint64_t blocks = kWorkNanoseconds * std::min(drawn.threads, kProcessors) / nanoseconds_a_block(drawn);
  drawn.operations = std::max(blocks / drawn.threads, 2 * drawn.slots);
}

// One draw a statement: compilers differ in the order of arguments.
Configuration draw(uint64_t seed) {
  bench::Random random(seed);
  Configuration drawn{};
  drawn.threads = pick<uint64_t>(random, {1, 1, 1, 2, 2, 4, 8});
  drawn.distribution = pick(random, {Sizes::kOne, Sizes::kTwo, Sizes::kEight, Sizes::kLogUniform, Sizes::kMostlySmall});
  drawn.sizes = draw_sizes(drawn.distribution, random);
  drawn.lifetimes = pick(random, {Lifetimes::kRandom, Lifetimes::kOldestFirst, Lifetimes::kMostlyYoung,
                                  Lifetimes::kStack, Lifetimes::kBursts});
  drawn.call =
      pick(random, {Call::kMalloc, Call::kMalloc, Call::kMalloc, Call::kCalloc, Call::kRealloc, Call::kAligned});
  drawn.touch = pick(random, {Touch::kEnds, Touch::kLines, Touch::kWhole});
  uint64_t passed_percent = pick<uint64_t>(random, {0, 0, 10, 50, 100});
  drawn.passed_percent = drawn.threads > 1 ? passed_percent : 0;
  drawn.phases = pick<uint64_t>(random, {1, 1, 1, 6});
  draw_amounts(drawn, random);
  drawn.seed = random.next();
  return drawn;
}

std::string describe(const Configuration& drawn) {
  auto [smallest, largest] = std::minmax_element(drawn.sizes.begin(), drawn.sizes.end());
  auto text = [](const auto& texts, auto value) { return texts[static_cast<size_t>(value)]; };
  char line[512];
  std::snprintf(line, sizeof line,
                "drawn: threads %ju, slots %ju and operations %ju each; %s of %u to %u bytes, %ju on average, about "
                "%.1f MiB live; %s, phases %ju; by %s, %s touched, %ju %% passed",
                drawn.threads, drawn.slots, drawn.operations, text(kSizesText, drawn.distribution), *smallest, *largest,
                drawn.mean_bytes(), static_cast<double>(drawn.live_bytes()) / (1 << 20),
                text(kLifetimesText, drawn.lifetimes), drawn.phases, text(kCallText, drawn.call),
                text(kTouchText, drawn.touch), drawn.passed_percent);
  return line;
}

using Shared = std::vector<std::atomic<void*>>;

class Thread {
 public:
  Thread(const Configuration& drawn, Shared& shared, uint64_t seed)
      : drawn_(drawn), shared_(shared), random_(seed), slots_(drawn.slots, nullptr) {}

  bench::Result run() {
    for (uint64_t phase = 0; phase < drawn_.phases; ++phase) {
      for (uint64_t i = 0; i < drawn_.operations / drawn_.phases; ++i) step();
      if (drawn_.phases > 1) release_most();
    }
    result_.free_all(slots_);
    return result_;
  }

 private:
  void step() {
    switch (drawn_.lifetimes) {
      case Lifetimes::kRandom: replace(slots_[random_.below(slots_.size())]); break;
      case Lifetimes::kOldestFirst:
        replace(slots_[next_]);
        if (++next_ == slots_.size()) next_ = 0;
        break;
      case Lifetimes::kMostlyYoung: {
        size_t among = random_.once_in(10) ? slots_.size() : slots_.size() / 16 + 1;
        replace(slots_[random_.below(among)]);
        break;
      }
      case Lifetimes::kStack:
        if (next_ == goal_) goal_ = random_.below(slots_.size() + 1);
        go_to_goal();
        break;
      case Lifetimes::kBursts:
        if (next_ == goal_) goal_ = next_ == 0 ? slots_.size() : 0;
        go_to_goal();
        break;
    }
  }

  // One block more or less.
  void go_to_goal() {
    if (next_ < goal_) replace(slots_[next_++]);
    if (next_ > goal_) discard(slots_[--next_]);
  }

  // What stays is freed when a stack or a burst comes to its slot.
  void release_most() {
    for (void*& slot : slots_)
      if (!random_.once_in(10)) discard(slot);
    next_ = goal_ = 0;
  }

  void replace(void*& slot) {
    discard(slot);
    slot = allocate();
  }

  // All draws are of this thread's own blocks: what a place holds depends on the others, what is drawn must not.
  void discard(void*& slot) {
    void* block = std::exchange(slot, nullptr);
    if (block == nullptr) return;
    if (random_.below(100) < drawn_.passed_percent)
      block = shared_[random_.below(shared_.size())].exchange(block, std::memory_order_acq_rel);
    if (block != nullptr) result_.free(block);
  }

  void* allocate() {
    uint32_t content = random_.content();
    uint32_t bytes = drawn_.sizes[random_.below(drawn_.sizes.size())];
    ++result_.operations;
    switch (drawn_.call) {
      case Call::kMalloc: break;
      case Call::kCalloc: return fill(std::calloc(1, bytes), bytes, content);
      case Call::kAligned: return fill(allocate_aligned(bytes), bytes, content);
      case Call::kRealloc: return allocate_growing(bytes, content);
    }
    return fill(std::malloc(bytes), bytes, content);
  }

  void* allocate_aligned(uint32_t bytes) {
    void* block = nullptr;
    size_t alignment = random_.once_in(2) ? 32 : 64;
    return posix_memalign(&block, alignment, bytes) == 0 ? block : nullptr;
  }

  // One block in four grows by half.
  void* allocate_growing(uint32_t bytes, uint32_t content) {
    void* block = fill(std::malloc(bytes), bytes, content);
    if (!random_.once_in(4)) return block;
    uint32_t grown_bytes = bytes + bytes / 2;
    void* grown = std::realloc(block, grown_bytes);
    if (grown == nullptr) bench::fail("realloc to %u bytes failed", grown_bytes);
    bench::check_block(grown);
    ++result_.operations;
    return fill(grown, grown_bytes, content);
  }

  void* fill(void* memory, uint32_t bytes, uint32_t content) const {
    auto* block = static_cast<unsigned char*>(bench::fill_block(memory, bytes, content, 0));
    auto byte = static_cast<unsigned char>(content);
    if (drawn_.touch == Touch::kWhole) std::memset(block + sizeof(bench::Stamp), byte, bytes - sizeof(bench::Stamp));
    if (drawn_.touch == Touch::kLines)
      for (size_t offset = kLineBytes; offset < bytes; offset += kLineBytes) block[offset] = byte;
    return block;
  }

  const Configuration& drawn_;
  Shared& shared_;
  bench::Random random_;
  bench::Result result_{};
  std::vector<void*> slots_;
  // The slot whose turn it is; of stacks and bursts, how many are full and shall be.
  size_t next_ = 0, goal_ = 0;
};

bench::Result run_drawn(const Configuration& drawn) {
  Shared shared(drawn.shared);
  bench::Result sum = bench::run_threads(
      drawn.threads, [&](uint64_t thread) { return Thread(drawn, shared, drawn.seed + thread).run(); });
  for (std::atomic<void*>& place : shared)
    if (void* block = place.load()) sum.free(block);
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Configuration drawn = draw(options.number("seed", 1));
  drawn.operations = options.number("operations", drawn.operations);
  options.finish();
  if (drawn.operations < drawn.phases) bench::fail("fewer operations than phases");
  return bench::run(describe(drawn).c_str(), [&] { return run_drawn(drawn); });
}
