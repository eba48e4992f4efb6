// A fixed set of threads that share out numbered tasks. The calling thread works too, so a team of one has no thread of
// its own. Idle threads sleep; between two jobs they look a few microseconds for the next before they do.
//
// Thread rule: `run` and the destructor are called from one thread at a time. Tasks are claimed in ascending order,
// each exactly once, by any worker.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/error.hpp"

namespace troupe::compute {

class work_team {
 public:
  // @pre threads >= 1; the calling thread is one of them
  explicit work_team(std::uint32_t threads);
  work_team(const work_team&) = delete;
  work_team& operator=(const work_team&) = delete;
  ~work_team();

  [[nodiscard]] std::uint32_t threads() const { return static_cast<std::uint32_t>(workers_.size()) + 1; }

  // Calls task(number, worker) for each number below `tasks`; worker < threads() names the thread. Returns when all are
  // done. internal with the text of the first exception that a task threw; the others are still run.
  // `alone`: the calling thread does everything, for jobs that are over before another thread is awake.
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

  result<void> run_job(const job& next, bool alone);
  void work(std::uint32_t worker);
  void serve(std::uint32_t worker);
  [[nodiscard]] bool join();
  void leave();
  void note_failure(std::string text);

  // Written by the caller while nobody has joined; read by those who have.
  job job_;
  alignas(64) std::atomic<std::uint32_t> next_task_{0};
  // Bit 31: a job may be joined. The rest: workers inside it.
  alignas(64) std::atomic<std::uint32_t> state_{0};
  alignas(64) std::atomic<std::uint32_t> signal_{0};  // counts jobs; workers sleep on it
  std::atomic<bool> stop_{false};
  std::mutex failure_mutex_;
  std::string failure_;
  std::vector<std::jthread> workers_;
};

}  // namespace troupe::compute
