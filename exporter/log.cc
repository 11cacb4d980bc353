#include "exporter/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <mutex>

namespace hakmem::exporter {
namespace {

constexpr int kLinesPerMinute = 10;

class StderrSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  StderrSink() { is_open_ = fstat(STDERR_FILENO, &first_) == 0; }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (!is_open_ || !take_token()) return;
    struct stat now {};
    is_open_ = fstat(STDERR_FILENO, &now) == 0 && now.st_dev == first_.st_dev && now.st_ino == first_.st_ino;
    if (!is_open_) return;
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    [[maybe_unused]] ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  }

  void flush_() override {}

 private:
  bool take_token() {
    auto now = std::chrono::steady_clock::now();
    if (now - minute_ > std::chrono::minutes(1)) {
      minute_ = now;
      lines_ = 0;
    }
    return lines_++ < kLinesPerMinute;
  }

  struct stat first_ {};
  bool is_open_;
  std::chrono::steady_clock::time_point minute_{};
  int lines_ = 0;
};

spdlog::logger& logger() {
  static auto* instance = [] {
    auto* made = new spdlog::logger("hakmem", std::make_shared<StderrSink>());
    made->set_pattern("hakmem: %v");
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarning: return spdlog::level::warn;
    case Level::kError: break;
  }
  return spdlog::level::err;
}

}  // namespace

// Joined by the logger, which lets no failure of doing so out.
void log(Level level, std::initializer_list<std::string_view> parts) {
  logger().log(spdlog_level(level), "{}", fmt::join(parts, ""));
}

}  // namespace hakmem::exporter
