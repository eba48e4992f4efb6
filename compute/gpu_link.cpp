#include "compute/gpu_link.hpp"

#include <thread>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::compute {

gpu_link_clock steady_link_clock(std::function<bool()> cancelled) {
  return {.now = [] { return std::chrono::steady_clock::now(); },
          .pause = [] { std::this_thread::sleep_for(std::chrono::microseconds{100}); },
          .cancelled = cancelled ? std::move(cancelled) : [] { return false; }};
}

gpu_link::gpu_link(std::unique_ptr<gpu_link_backend> backend, gpu_link_clock clock)
    : backend_(std::move(backend)), clock_(std::move(clock)) {}

gpu_link::~gpu_link() {
  if (backend_ != nullptr) backend_->abort();
}

result<gpu_link> gpu_link::connect(std::unique_ptr<gpu_link_backend> backend, std::span<const std::byte> key,
                                   std::uint32_t rank, std::uint32_t ranks, gpu_link_clock clock) {
  gpu_link made(std::move(backend), std::move(clock));
  auto begun = made.backend_->begin_connect(key, rank, ranks);
  if (auto done = made.finish(std::move(begun), "connecting GPUs"); !done) return fail(done.error());
  return made;
}

result<void> gpu_link::exchange(std::span<const gpu_move> moves) {
  if (backend_ == nullptr) {
    return fail(errc::unavailable,
                fmt::format("this link of GPUs is {}; make a new one", broken_by_.empty() ? "closed" : broken_by_));
  }
  return finish(backend_->begin_exchange(moves), "moving memory between GPUs");
}

result<void> gpu_link::close() {
  if (backend_ == nullptr) return {};
  if (auto done = finish(backend_->begin_close(), "closing a link of GPUs"); !done) return done;
  backend_.reset();
  return {};
}

result<void> gpu_link::finish(result<void> begun, const char* what) {
  const auto give_up = [this](error reason) {
    broken_by_ = fmt::format("broken ({})", reason.message);
    std::exchange(backend_, nullptr)->abort();
    return fail(std::move(reason));
  };
  if (!begun) return give_up(begun.error());
  const auto begin = clock_.now();
  for (;;) {
    auto done = backend_->is_done();
    if (!done) return give_up(done.error());
    if (*done) return {};
    if (clock_.cancelled()) return give_up({errc::cancelled, fmt::format("{} was cancelled", what)});
    if (clock_.now() - begin >= limits::gpu_link_timeout) {
      return give_up({errc::timeout, fmt::format("{} did not end within {} ms; take another way", what,
                                                 limits::gpu_link_timeout.count())});
    }
    clock_.pause();
  }
}

}  // namespace troupe::compute
