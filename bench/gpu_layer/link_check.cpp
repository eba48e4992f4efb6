#include "bench/gpu_layer/link_check.hpp"

#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <cstring>
#include <vector>

#include <fmt/format.h>

extern char** environ;

namespace troupe::bench {
namespace {

using namespace compute;

constexpr std::size_t moved_bytes = std::size_t{96} << 20;  // as a bf16 expert of 7,168 x 2,048

std::vector<std::byte> pattern() {
  std::vector<std::byte> bytes(moved_bytes);
  std::uint32_t state = 7;
  for (auto& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

// A runtime with device memory that holds what the host has put there.
class device_bytes {
 public:
  static result<device_bytes> make(const link_ends& ends, std::uint32_t device, std::span<const std::byte> content) {
    auto runtime = ends.open_runtime(device);
    if (!runtime) return fail(runtime.error());
    device_bytes made(std::move(*runtime));
    auto memory = made.runtime_->allocate(content.size());
    if (!memory) return fail(memory.error());
    made.memory_ = *memory;
    made.runtime_->upload(gpu_stream::load, made.memory_, content.data(), content.size());
    if (auto done = made.runtime_->finish(gpu_stream::load); !done) return fail(done.error());
    return made;
  }
  device_bytes(device_bytes&& other) noexcept
      : runtime_(std::move(other.runtime_)), memory_(std::exchange(other.memory_, nullptr)) {}
  device_bytes& operator=(device_bytes&&) = delete;
  ~device_bytes() {
    if (runtime_ != nullptr) runtime_->release(memory_);
  }

  [[nodiscard]] std::byte* begin() const { return memory_; }
  result<void> compare(std::span<const std::byte> expected) {
    std::vector<std::byte> content(expected.size());
    runtime_->download(gpu_stream::load, content.data(), memory_, content.size());
    if (auto done = runtime_->finish(gpu_stream::load); !done) return done;
    if (std::memcmp(content.data(), expected.data(), expected.size()) == 0) return {};
    return fail(errc::corrupt, "what arrived is not what was sent");
  }

 private:
  explicit device_bytes(std::unique_ptr<gpu_runtime> runtime) : runtime_(std::move(runtime)) {}

  std::unique_ptr<gpu_runtime> runtime_;
  std::byte* memory_{};
};

// Twice, because the first time sets up what the second one uses. What the second took, for people.
result<std::string> move_twice(gpu_link& link, std::span<const gpu_move> moves) {
  std::chrono::duration<double> taken{};
  for (int round = 0; round < 2; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    if (auto done = link.exchange(moves); !done) return fail(done.error());
    taken = std::chrono::steady_clock::now() - begin;
  }
  if (auto closed = link.close(); !closed) return fail(closed.error());
  const auto megabytes_per_second = static_cast<std::uint64_t>(static_cast<double>(moved_bytes) / taken.count() * 1e-6);
  return fmt::format("{} MiB arrived as they were sent, the second time at {} MB/s", moved_bytes >> 20,
                     megabytes_per_second);
}

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes) {
    for (const auto digit : {std::to_integer<unsigned>(byte) >> 4, std::to_integer<unsigned>(byte) & 15U}) {
      text += "0123456789abcdef"[digit];
    }
  }
  return text;
}

std::vector<std::byte> from_hex(std::string_view text) {
  std::vector<std::byte> bytes;
  const auto digit = [&](std::size_t at) { return std::string_view{"0123456789abcdef"}.find(text[at]) & 15U; };
  for (std::size_t at = 0; at + 1 < text.size(); at += 2) {
    bytes.push_back(static_cast<std::byte>(digit(at) << 4 | digit(at + 1)));
  }
  return bytes;
}

}  // namespace

result<std::string> check_self_send(const link_ends& ends, std::uint32_t device) {
  const auto sent = pattern();
  auto from = device_bytes::make(ends, device, sent);
  if (!from) return fail(from.error());
  auto to = device_bytes::make(ends, device, std::vector<std::byte>(moved_bytes));
  if (!to) return fail(to.error());
  auto backend = ends.open_link(device);
  if (!backend) return fail(backend.error());
  auto key = (*backend)->make_key();
  if (!key) return fail(key.error());
  auto link = gpu_link::connect(std::move(*backend), *key, 0, 1);
  if (!link) return fail(link.error());
  const gpu_move moves[]{{gpu_move::direction::send, from->begin(), moved_bytes, 0},
                         {gpu_move::direction::receive, to->begin(), moved_bytes, 0}};
  auto moved = move_twice(*link, moves);
  if (!moved) return moved;
  if (auto right = to->compare(sent); !right) return fail(right.error());
  return moved;
}

result<std::string> check_two_processes(const link_ends& ends, std::uint32_t device, const std::string& program) {
  if (auto second = ends.open_runtime(device + 1); !second) return fail(errc::not_found, second.error().message);
  auto from = device_bytes::make(ends, device, pattern());
  if (!from) return fail(from.error());
  auto backend = ends.open_link(device);
  if (!backend) return fail(backend.error());
  auto key = (*backend)->make_key();
  if (!key) return fail(key.error());
  std::string words[]{program, "second-process", "cuda:" + std::to_string(device + 1), "--key", to_hex(*key)};
  char* arguments[]{words[0].data(), words[1].data(), words[2].data(), words[3].data(), words[4].data(), nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ) != 0) {
    return fail(errc::internal, "the second process could not be started");
  }
  result<std::string> moved = fail(errc::internal, "nothing was moved");
  {
    auto link = gpu_link::connect(std::move(*backend), *key, 0, 2);
    const gpu_move moves[]{{gpu_move::direction::send, from->begin(), moved_bytes, 1}};
    moved = link ? move_twice(*link, moves) : result<std::string>{fail(link.error())};
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child || status != 0) {
    return fail(errc::internal, moved ? "the second process did not get what was sent" : moved.error().message);
  }
  return moved;
}

result<std::string> receive_from_first(const link_ends& ends, std::uint32_t device, const std::string& key) {
  auto to = device_bytes::make(ends, device, std::vector<std::byte>(moved_bytes));
  if (!to) return fail(to.error());
  auto backend = ends.open_link(device);
  if (!backend) return fail(backend.error());
  auto link = gpu_link::connect(std::move(*backend), from_hex(key), 1, 2);
  if (!link) return fail(link.error());
  const gpu_move moves[]{{gpu_move::direction::receive, to->begin(), moved_bytes, 0}};
  auto moved = move_twice(*link, moves);
  if (!moved) return moved;
  if (auto right = to->compare(pattern()); !right) return fail(right.error());
  return moved;
}

}  // namespace troupe::bench
