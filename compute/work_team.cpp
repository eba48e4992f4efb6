#include "compute/work_team.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cassert>
#include <exception>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::compute {
namespace {

constexpr std::uint32_t open_bit = 1U << 31;
constexpr std::uint32_t seat_shift = 16;
constexpr std::uint32_t inside_mask = (1U << seat_shift) - 1;
static_assert(limits::device_threads_max < 1U << (31 - seat_shift));
// A pause takes 20 to 140 cycles, so this is 5 to 25 microseconds: about what a batch's first products and its second
// lie apart, and less than going to sleep and being woken takes. Much longer looking would take the core from other
// processes of this machine.
constexpr int looks_before_sleep = 400;

void pause_briefly() { __builtin_ia32_pause(); }

// Returns when `word` no longer holds `old`.
void wait_for_change(const std::atomic<std::uint32_t>& word, std::uint32_t old) {
  for (int i = 0; i < looks_before_sleep; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  word.wait(old, std::memory_order_acquire);
}

// Those that the calling thread may run on, ascending; none when the system does not say.
std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// A thread that cannot be kept there works all the same.
void keep_on(std::jthread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

}  // namespace

result<std::shared_ptr<work_team>> work_team::start(std::uint32_t threads, std::string_view user) {
  if (threads == 0 || threads > limits::device_threads_max) {
    return fail(errc::invalid_request,
                fmt::format("{} with {} threads; use 1 to {}", user, threads, limits::device_threads_max));
  }
  try {
    return std::shared_ptr<work_team>(new work_team(threads));
  } catch (const std::system_error& problem) {
    return fail(errc::out_of_memory,
                fmt::format("{}: {} threads could not be started: {}; use fewer", user, threads, problem.what()));
  }
}

work_team::work_team(std::uint32_t threads) : seats_(threads) {
  if (auto cpus = usable_cpus(); threads > 1 && cpus.size() == threads) cpus_ = std::move(cpus);
  try {
    for (std::uint32_t worker = cpus_.empty() ? 1 : 0; worker < threads; ++worker) {
      workers_.emplace_back([this, worker] { serve(worker); });
      if (!cpus_.empty()) keep_on(workers_.back(), cpus_[worker]);
    }
  } catch (const std::system_error&) {
    stop();  // those that run are joined next
    throw;
  }
}

work_team::~work_team() { stop(); }

void work_team::stop() {
  stop_.store(true, std::memory_order_release);
  for (auto& each : seats_) {
    each.calls.fetch_add(1, std::memory_order_release);
    each.calls.notify_all();
  }
}

// The seat of the CPU that the caller is on; any would be right, but that worker could not work beside the caller.
std::uint32_t work_team::own_seat() const {
  if (cpus_.empty()) return 0;
  const auto at = std::ranges::lower_bound(cpus_, ::sched_getcpu());
  return at == cpus_.end() ? 0 : static_cast<std::uint32_t>(at - cpus_.begin());
}

result<void> work_team::run_job(const job& next, bool alone) {
  assert((state_.load() & (open_bit | inside_mask)) == 0 && "run is not reentrant");
  job_ = next;
  next_task_.store(0, std::memory_order_relaxed);
  failure_.clear();
  if (alone || workers_.empty() || next.tasks <= 1) {
    work(0);
  } else {
    const auto own = own_seat();
    state_.store(open_bit | own << seat_shift, std::memory_order_release);
    for (std::uint32_t worker = 0; worker < threads(); ++worker) {
      if (worker == own) continue;
      seats_[worker].calls.fetch_add(1, std::memory_order_release);
      seats_[worker].calls.notify_one();
    }
    work(own);
    // Who is not awake yet stays out; who is inside is waited for.
    auto state = state_.fetch_and(~open_bit, std::memory_order_acq_rel) & ~open_bit;
    while ((state & inside_mask) != 0) {
      wait_for_change(state_, state);
      state = state_.load(std::memory_order_acquire);
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
  auto& calls = seats_[worker].calls;
  std::uint32_t seen = 0;
  for (;;) {
    wait_for_change(calls, seen);
    seen = calls.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    if (!join(worker)) continue;
    work(worker);
    leave();
  }
}

// A worker that wakes too late must not join a later job whose caller has its seat.
bool work_team::join(std::uint32_t worker) {
  auto state = state_.load(std::memory_order_acquire);
  while ((state & open_bit) != 0 && (state & ~open_bit) >> seat_shift != worker) {
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
