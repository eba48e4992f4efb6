// A fixed set of threads that share out numbered tasks. The calling thread works too. Idle threads sleep; between two
// jobs they look a few microseconds for the next before they do.
//
// A team of as many threads as this process has CPUs keeps one worker on each, and the calling thread takes the part of
// the worker whose CPU it runs on. Left alone, the scheduler wakes a worker on its caller's CPU as often as not when
// other processes compute, and does not part them within the milliseconds that a job takes: a CPU idles at its end.
//
// Thread rule: `run` and the destructor are called from one thread at a time. Tasks are claimed in ascending order,
// each exactly once, by any worker.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/error.hpp"

namespace troupe::compute {

class work_team {
 public:
  // invalid_request unless `threads` is 1 .. limits::device_threads_max, the calling thread being one of them;
  // out_of_memory when they cannot be started. `user` is named in errors.
  [[nodiscard]] static result<std::shared_ptr<work_team>> start(std::uint32_t threads, std::string_view user);
  work_team(const work_team&) = delete;
  work_team& operator=(const work_team&) = delete;
  ~work_team();

  [[nodiscard]] std::uint32_t threads() const { return static_cast<std::uint32_t>(seats_.size()); }

  // Calls task(number, worker) for each number below `tasks`; worker < threads() names the thread within this job.
  // Returns when all are done. internal with the text of the first exception that a task threw; the others are still
  // run. `alone`: the calling thread does everything, for jobs that are over before another thread is awake.
  template <class Task>
  [[nodiscard]] result<void> run(std::uint32_t tasks, bool alone, Task& task) {
    return run_job({[](void* context, std::uint32_t number, std::uint32_t worker) {
                      (*static_cast<Task*>(context))(number, worker);
                    },
                    &task, tasks},
                   alone);
  }

 private:
  struct job {
    void (*call)(void*, std::uint32_t, std::uint32_t){};
    void* context{};
    std::uint32_t tasks{};
  };

  // What one worker sleeps on: counts the jobs that it was called to.
  struct alignas(64) seat {
    std::atomic<std::uint32_t> calls{0};
  };

  explicit work_team(std::uint32_t threads);
  void stop();
  [[nodiscard]] std::uint32_t own_seat() const;
  result<void> run_job(const job& next, bool alone);
  void work(std::uint32_t worker);
  void serve(std::uint32_t worker);
  [[nodiscard]] bool join(std::uint32_t worker);
  void leave();
  void note_failure(std::string text);

  // Written by the caller while nobody has joined; read by those who have.
  job job_;
  alignas(64) std::atomic<std::uint32_t> next_task_{0};
  // Bit 31: a job may be joined. Bits 16 to 30: the seat that its caller has taken. The rest: workers inside it.
  alignas(64) std::atomic<std::uint32_t> state_{0};
  std::atomic<bool> stop_{false};
  std::mutex failure_mutex_;
  std::string failure_;
  std::vector<seat> seats_;
  std::vector<int>
      cpus_;  // of the seats, ascending; empty: threads run where the scheduler wants, seat 0 is the caller's
  std::vector<std::jthread> workers_;
};

}  // namespace troupe::compute
