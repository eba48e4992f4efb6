#include "compute/work_team.hpp"

#include <cassert>
#include <exception>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::compute {
namespace {

constexpr std::uint32_t open_bit = 1U << 31;
// A pause takes 20 to 140 cycles, so this is 1 to 5 microseconds: longer looking would take the core from other
// processes of this machine.
constexpr int looks_before_sleep = 64;

void pause_briefly() { __builtin_ia32_pause(); }

// Returns when `word` no longer holds `old`.
void wait_for_change(const std::atomic<std::uint32_t>& word, std::uint32_t old) {
  for (int i = 0; i < looks_before_sleep; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  word.wait(old, std::memory_order_acquire);
}

}  // namespace

work_team::work_team(std::uint32_t threads) {
  assert(threads >= 1 && threads <= limits::device_threads_max);
  workers_.reserve(threads - 1);
  for (std::uint32_t i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i] { serve(i); });
  }
}

work_team::~work_team() {
  stop_.store(true, std::memory_order_release);
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_all();
}

result<void> work_team::run_job(const job& next, bool alone) {
  assert(state_.load() == 0 && "run is not reentrant");
  job_ = next;
  next_task_.store(0, std::memory_order_relaxed);
  failure_.clear();
  bool shared = !alone && !workers_.empty() && next.tasks > 1;
  if (shared) {
    state_.store(open_bit, std::memory_order_release);
    signal_.fetch_add(1, std::memory_order_release);
    signal_.notify_all();
  }
  work(0);
  if (shared) {
    // Who is not awake yet stays out; who is inside is waited for.
    auto inside = state_.fetch_and(~open_bit, std::memory_order_acq_rel) & ~open_bit;
    while (inside != 0) {
      wait_for_change(state_, inside);
      inside = state_.load(std::memory_order_acquire);
    }
  }
  if (!failure_.empty()) return fail(errc::internal, std::exchange(failure_, {}));
  return {};
}

void work_team::work(std::uint32_t worker) {
  for (;;) {
    auto number = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (number >= job_.tasks) return;
    try {
      job_.call(job_.context, number, worker);
    } catch (const std::exception& problem) {
      note_failure(fmt::format("compute task {} failed: {}; report this as a bug", number, problem.what()));
    }
  }
}

void work_team::serve(std::uint32_t worker) {
  std::uint32_t seen = 0;
  for (;;) {
    wait_for_change(signal_, seen);
    seen = signal_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    if (!join()) continue;
    work(worker);
    leave();
  }
}

bool work_team::join() {
  auto state = state_.load(std::memory_order_acquire);
  while ((state & open_bit) != 0) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
  }
  return false;
}

void work_team::leave() {
  state_.fetch_sub(1, std::memory_order_acq_rel);
  state_.notify_all();
}

void work_team::note_failure(std::string text) {
  std::lock_guard lock(failure_mutex_);
  if (failure_.empty()) failure_ = std::move(text);
}

}  // namespace troupe::compute
