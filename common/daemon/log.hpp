// Log of a daemon. After start_log() everybody writes with spdlog::info(...) and its like: lines go through a bounded
// queue to a thread of their own, so that a slow disk holds nobody up; when the queue is full the oldest lines are
// dropped and a line says how many. Any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::daemon {

enum class log_format : std::uint8_t { text, json };

struct log_options {
  std::string process;         // the node's name; stands in every line
  std::string level{"info"};   // trace, debug, info, warning, error, off
  std::string format{"text"};  // text, or json: one object per line {time, level, process, thread, text}
  std::filesystem::path file;  // rotated at limits::log_file_bytes_max; empty: standard error
};

// Once, before other threads log. invalid_request: level or format. Control characters in lines are escaped.
[[nodiscard]] result<void> start_log(const log_options& options);

// Writes what is queued and ends the log's thread. At most a few seconds; last thing in main.
void stop_log();

// Limits what one place in the code may write (faults.md O7):
//
//   static log_limit limit;
//   if (const auto dropped = limit.admit()) spdlog::warn("peer refused: {}{}", reason, dropped_note(*dropped));
class log_limit {
 public:
  // limits::log_site_burst lines at once, then one per limits::log_site_interval.
  log_limit();
  log_limit(std::uint32_t burst, std::chrono::steady_clock::duration interval);

  // Lines dropped since the last admitted one; nullopt: this line is dropped too.
  [[nodiscard]] std::optional<std::uint64_t> admit();
  [[nodiscard]] std::optional<std::uint64_t> admit(std::chrono::steady_clock::time_point now);

 private:
  std::mutex mutex_;
  const std::uint32_t burst_;
  const std::chrono::steady_clock::duration interval_;
  std::uint32_t tokens_;
  std::chrono::steady_clock::time_point refilled_;
  std::uint64_t dropped_{};
};

// " (12 like this were dropped)", or nothing for 0.
[[nodiscard]] std::string dropped_note(std::uint64_t dropped);

}  // namespace troupe::daemon
