// Writes what experts have to do into a file that `troupe simulate --loads` reads (columns step,layer,expert,load): of
// each window of time, the rows that chose each expert, from gates and from clients that gate themselves. Bounded: what
// would make the file longer than allowed is left out, with a warning.
//
// Thread rule: one thread (the router's).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "router_node/core/layer_plan.hpp"

namespace troupe::router {

struct load_recorder_settings {
  std::filesystem::path file;
  std::chrono::seconds window{60};
  std::size_t rows_max{limits::load_trace_rows_max};  // of the file: what simulate reads; about 15 bytes each
};

class load_recorder {
 public:
  // conflict: the file exists. unavailable: it cannot be written.
  [[nodiscard]] static result<std::unique_ptr<load_recorder>> open(load_recorder_settings settings,
                                                                   const model_plan& plan);
  // Writes the window that has begun.
  ~load_recorder();
  load_recorder(const load_recorder&) = delete;
  load_recorder& operator=(const load_recorder&) = delete;

  // `place`: layer_plan::place; `expert_ids`: [T, k], under 0: none.
  void count(std::uint32_t place, std::span<const std::int32_t> expert_ids);
  // So much time has passed; ends the window when it is over.
  void pass(double seconds);
  [[nodiscard]] bool is_full() const { return is_full_; }

 private:
  load_recorder(load_recorder_settings settings, const model_plan& plan, std::ofstream out);
  void end_window();

  load_recorder_settings settings_;
  std::ofstream out_;
  std::vector<std::uint32_t> layers_;             // number of each place
  std::vector<std::vector<std::uint64_t>> rows_;  // [place][expert], of this window
  double seconds_{};                              // of this window
  std::uint32_t step_{};
  std::size_t written_{};  // rows of the file
  bool is_full_{};
};

}  // namespace troupe::router
