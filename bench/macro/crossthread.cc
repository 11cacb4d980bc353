// Cross-thread frees: producers allocate messages and pass them in batches
// through bounded queues to consumers, which keep a window of them and free the
// oldest. Every message is freed by a thread that did not allocate it.
//
//   symmetric  each thread produces for its neighbour and consumes from the other
//   fan-out    one producer, several consumers
//   fan-in     several producers, one consumer
//   all        the three, one after another
#include <algorithm>
#include <array>
#include <memory>

#include "bench/macro/queue.h"
#include "bench/macro/workload.h"

namespace {

struct Parameters {
  std::string pattern;
  uint64_t threads, messages, window, depth, smallest, largest, seed;
};

constexpr size_t kBatch = 512;
using Batch = std::array<void*, kBatch>;

using Queue = bench::Queue<Batch>;

class Producer {
 public:
  Producer(const Parameters& parameters, uint64_t number)
      : random_(parameters.seed + number), smallest_(parameters.smallest), largest_(parameters.largest) {}

  void produce(Queue& queue, bench::Result& result) {
    Batch batch;
    for (void*& message : batch) message = bench::allocate_random_block(random_, smallest_, largest_);
    result.operations += kBatch;
    queue.push(std::move(batch));
  }

 private:
  bench::Random random_;
  uint64_t smallest_, largest_;
};

// Keeps the newest messages and frees those that fall out of the window, which
// makes the live heap independent of how the threads happen to be scheduled.
class Consumer {
 public:
  explicit Consumer(uint64_t window) : window_(window, nullptr) {}

  void consume(Queue& queue, bench::Result& result) {
    for (void* message : queue.pop()) {
      std::swap(message, window_[next_]);
      if (++next_ == window_.size()) next_ = 0;
      if (message != nullptr) result.free(message);
    }
  }

  void finish(bench::Result& result) { result.free_all(window_); }

 private:
  std::vector<void*> window_;
  size_t next_ = 0;
};

bench::Result run_symmetric(const Parameters& parameters) {
  uint64_t batches = parameters.messages / kBatch / parameters.threads;
  std::vector<std::unique_ptr<Queue>> queues;
  for (uint64_t i = 0; i < parameters.threads; ++i) queues.push_back(std::make_unique<Queue>(parameters.depth));
  return bench::run_threads(parameters.threads, [&](uint64_t thread) {
    bench::Result result{};
    Producer producer(parameters, thread);
    Consumer consumer(parameters.window / parameters.threads);
    for (uint64_t i = 0; i < batches; ++i) {
      producer.produce(*queues[(thread + 1) % queues.size()], result);
      consumer.consume(*queues[thread], result);
    }
    consumer.finish(result);
    return result;
  });
}

bench::Result run_asymmetric(const Parameters& parameters, uint64_t producers, uint64_t consumers) {
  uint64_t lanes = std::max(producers, consumers);
  uint64_t batches_a_lane = parameters.messages / kBatch / lanes;
  // One queue a lane, so that who frees what does not depend on scheduling.
  std::vector<std::unique_ptr<Queue>> queues;
  for (uint64_t i = 0; i < lanes; ++i) queues.push_back(std::make_unique<Queue>(parameters.depth));
  return bench::run_threads(producers + consumers, [&](uint64_t thread) {
    bench::Result result{};
    bool produces = thread < producers;
    uint64_t sides = produces ? producers : consumers;
    uint64_t first_lane = produces ? thread : thread - producers;
    Producer producer(parameters, thread);
    Consumer consumer(parameters.window / consumers);
    for (uint64_t i = 0; i < batches_a_lane; ++i) {
      for (uint64_t lane = first_lane; lane < lanes; lane += sides) {
        if (produces) {
          producer.produce(*queues[lane], result);
        } else {
          consumer.consume(*queues[lane], result);
        }
      }
    }
    if (!produces) consumer.finish(result);
    return result;
  });
}

bench::Result run_pattern(const Parameters& parameters) {
  bench::Result sum{};
  bool all = parameters.pattern == "all";
  auto add = [&](const char* pattern, auto&& body) {
    if (!all && parameters.pattern != pattern) return;
    sum += body();
  };
  add("symmetric", [&] { return run_symmetric(parameters); });
  add("fan-out", [&] { return run_asymmetric(parameters, 1, parameters.threads); });
  add("fan-in", [&] { return run_asymmetric(parameters, parameters.threads, 1); });
  if (sum.operations == 0) bench::fail("--pattern=%s: not a pattern, or no messages", parameters.pattern.c_str());
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  Parameters parameters{
      .pattern = options.text("pattern", "all"),
      .threads = options.number("threads", 3),
      .messages = options.number("messages", 6'000'000),
      .window = options.number("window", 120'000),
      .depth = options.number("depth", 16),
      .smallest = options.number("smallest", 16),
      .largest = options.number("largest", 512),
      .seed = options.number("seed", 1),
  };
  options.finish();
  bench::check_sizes(parameters.smallest, parameters.largest);
  if (parameters.window < parameters.threads) bench::fail("a window smaller than the number of threads");
  return bench::run("crossthread", [&] { return run_pattern(parameters); });
}
