#include "common/daemon/log.hpp"

#include <fmt/format.h>
#include <spdlog/async.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "common/daemon/escape.hpp"
#include "common/limits.hpp"

namespace troupe::daemon {
namespace {

constexpr const char* text_pattern = "%Y-%m-%dT%H:%M:%S.%e%z %-7l %n: %*";
constexpr const char* json_pattern =
    R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","process":"%n","thread":%t,"text":"%*"})";

// "%*": the line with control characters escaped.
class escaped_payload : public spdlog::custom_flag_formatter {
 public:
  explicit escaped_payload(log_format format) : format_(format) {}
  void format(const spdlog::details::log_msg& message, const std::tm& /*time*/, spdlog::memory_buf_t& target) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    const auto escaped = format_ == log_format::json ? escape_json(text) : escape_text(text);
    target.append(escaped.data(), escaped.data() + escaped.size());
  }
  [[nodiscard]] std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<escaped_payload>(format_);
  }

 private:
  log_format format_;
};

std::unique_ptr<spdlog::formatter> make_formatter(log_format format) {
  auto made = std::make_unique<spdlog::pattern_formatter>();
  made->add_flag<escaped_payload>('*', format);
  made->set_pattern(format == log_format::json ? json_pattern : text_pattern);
  return made;
}

// Passes lines on, and says how many were dropped when the queue was full.
class dropped_lines_sink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  dropped_lines_sink(spdlog::sink_ptr target, spdlog::details::thread_pool* queue)
      : target_(std::move(target)), queue_(queue) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const auto dropped = queue_->overrun_counter();
    if (dropped > reported_) {
      const auto text = fmt::format("{} log lines were dropped: more is written than the disk takes",
                                    dropped - std::exchange(reported_, dropped));
      target_->log(spdlog::details::log_msg(message.logger_name, spdlog::level::warn, text));
    }
    target_->log(message);
  }
  void flush_() override { target_->flush(); }
  void set_formatter_(std::unique_ptr<spdlog::formatter> formatter) override {
    target_->set_formatter(std::move(formatter));
  }

 private:
  spdlog::sink_ptr target_;
  spdlog::details::thread_pool* queue_;  // whose threads are the only callers: it outlives every call
  std::size_t reported_{};
};

result<spdlog::level::level_enum> parse_level(const std::string& text) {
  const auto level = spdlog::level::from_str(text);
  // from_str takes what it does not know for "off".
  if (level != spdlog::level::off || text == "off") return level;
  return fail(errc::invalid_request,
              fmt::format("--log-level '{}' is unknown; use trace, debug, info, warning, error or off", text));
}

result<log_format> parse_format(const std::string& text) {
  if (text == "text") return log_format::text;
  if (text == "json") return log_format::json;
  return fail(errc::invalid_request, fmt::format("--log-format '{}' is unknown; use text or json", text));
}

}  // namespace

result<void> start_log(const log_options& options) try {
  auto level = parse_level(options.level);
  if (!level) return fail(std::move(level.error()));
  auto format = parse_format(options.format);
  if (!format) return fail(std::move(format.error()));
  spdlog::sink_ptr target;
  if (options.file.empty()) {
    target = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  } else {
    target = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(options.file.string(), limits::log_file_bytes_max,
                                                                    limits::log_files_max);
  }
  spdlog::init_thread_pool(limits::log_queue_lines_max, 1);
  auto sink = std::make_shared<dropped_lines_sink>(std::move(target), spdlog::thread_pool().get());
  auto logger = std::make_shared<spdlog::async_logger>(options.process, std::move(sink), spdlog::thread_pool(),
                                                       spdlog::async_overflow_policy::overrun_oldest);
  logger->set_formatter(make_formatter(*format));
  logger->set_level(*level);
  logger->flush_on(spdlog::level::warn);
  // A disk that is full must not stop the daemon; the default handler would write to standard error without limit.
  logger->set_error_handler([](const std::string&) {});
  spdlog::set_default_logger(std::move(logger));
  spdlog::flush_every(limits::log_flush_interval);
  return {};
} catch (const spdlog::spdlog_ex& failure) {
  return fail(errc::internal, fmt::format("the log cannot be opened: {}; check --log-file", failure.what()));
}

void stop_log() { spdlog::shutdown(); }

log_limit::log_limit() : log_limit(limits::log_site_burst, limits::log_site_interval) {}

log_limit::log_limit(std::uint32_t burst, std::chrono::steady_clock::duration interval)
    : burst_(burst), interval_(interval), tokens_(burst) {}

std::optional<std::uint64_t> log_limit::admit() { return admit(std::chrono::steady_clock::now()); }

std::optional<std::uint64_t> log_limit::admit(std::chrono::steady_clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (tokens_ == burst_) refilled_ = now;
  const auto earned = (now - refilled_) / interval_;
  if (earned > 0) {
    tokens_ = static_cast<std::uint32_t>(std::min<std::int64_t>(burst_, tokens_ + earned));
    refilled_ += earned * interval_;
  }
  if (tokens_ == 0) {
    ++dropped_;
    return std::nullopt;
  }
  --tokens_;
  return std::exchange(dropped_, 0);
}

std::string dropped_note(std::uint64_t dropped) {
  return dropped == 0 ? std::string{} : fmt::format(" ({} like this were dropped)", dropped);
}

}  // namespace troupe::daemon
