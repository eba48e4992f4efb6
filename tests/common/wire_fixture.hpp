// A bound ROUTER and a connected DEALER, and waiting for what arrives at them.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"

namespace troupe::wire {

using namespace std::chrono_literals;

inline constexpr auto patience = 10s;

// Deadline for conditions that should hold at once; generous, since test machines are busy.
class deadline {
 public:
  [[nodiscard]] bool passed() const { return std::chrono::steady_clock::now() >= end_; }
  [[nodiscard]] std::chrono::nanoseconds left() const {
    return std::max<std::chrono::nanoseconds>(end_ - std::chrono::steady_clock::now(), 0ns);
  }

 private:
  std::chrono::steady_clock::time_point end_ = std::chrono::steady_clock::now() + patience;
};

inline std::optional<received> receive_within(socket& from, std::chrono::nanoseconds timeout = patience) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  poller waiting;
  waiting.add(from);
  do {
    if (auto got = receive(from)) return got;
    waiting.wait(std::max<std::chrono::nanoseconds>(end - std::chrono::steady_clock::now(), 0ns));
  } while (std::chrono::steady_clock::now() < end);
  return receive(from);
}

// Waits until `condition()` holds, looking every millisecond (poll on an empty set does not spin).
template <class Condition>
[[nodiscard]] bool eventually(Condition condition) {
  const deadline until;
  poller pause;
  while (!condition()) {
    if (until.passed()) return false;
    pause.wait(1ms);
  }
  return true;
}

class temporary_folder {
 public:
  temporary_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::string ipc(std::string_view name) const { return "ipc://" + (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

template <class T>
T must(result<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*value);
}

// Sends until the connection stands: a DEALER refuses messages before.
template <class Message>
void send_when_connected(socket& to, const Message& envelope) {
  ASSERT_TRUE(eventually([&] { return outgoing_message().send(to, envelope).has_value(); }));
}

}  // namespace troupe::wire
