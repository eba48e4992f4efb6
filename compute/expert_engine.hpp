// Computes a batch over packed experts in two phases, each a list of independent tasks for the team:
//
//   1  (expert, rows, piece of the width):  rows of the expert are gathered, [gate; up] product, activation -> h
//   2  (piece of the output columns):       for each expert in order: down product of its h, bias, gate weight, added
//                                           to the sums of its rows; then the sums are written out
//
// A column's sums belong to one task, so they need no lock and do not depend on the number of threads. Batches whose h
// would exceed the scratch limit are computed in passes over ranges of rows.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "compute/packing.hpp"
#include "compute/product.hpp"
#include "compute/scratch.hpp"
#include "compute/work_team.hpp"

namespace troupe::compute {

struct engine_group {
  const std::byte* slot{};              // packed as engine_batch::expert says
  std::span<const std::uint32_t> rows;  // [n], each < number of rows
  std::span<const float> weights;       // [n]
};

enum class row_output : std::uint8_t { store, add };  // in the kernel's type; f32, added to what is there

struct engine_batch {
  const packed_expert* expert{};
  std::span<const std::byte* const> inputs;  // [rows] pointers to [hidden] elements of the kernel's type
  std::span<std::byte* const> outputs;       // [rows] pointers to [hidden] elements
  row_output mode{row_output::store};
  std::span<const engine_group> groups;
};

class expert_engine {
 public:
  // Others may use the team, too, from the same thread.
  expert_engine(std::shared_ptr<const product_kernel> kernel, std::shared_ptr<work_team> team);
  ~expert_engine();

  [[nodiscard]] const product_kernel& kernel() const { return *kernel_; }
  [[nodiscard]] std::uint32_t threads() const { return team_->threads(); }
  [[nodiscard]] std::size_t scratch_bytes() const;
  void limit_scratch(std::size_t bytes) { scratch_limit_ = bytes; }

  // weighted_norms[g] += sum over the group's rows of |weight| x norm of the expert's output.
  // @pre weighted_norms.size() == groups.size(). internal or out_of_memory; outputs are then unspecified.
  [[nodiscard]] result<void> run(const engine_batch& batch, std::span<double> weighted_norms);

 private:
  struct group_rows;  // a group's part of one pass
  struct first_task;
  struct second_task;
  struct pass;
  struct worker_state;

  [[nodiscard]] std::uint32_t rows_per_product(const packed_expert& expert) const;
  [[nodiscard]] std::uint32_t end_of_pass(const packed_expert& expert, std::uint32_t begin) const;
  void plan_pass(const engine_batch& batch, std::uint32_t row_begin, std::uint32_t row_end);
  void plan_first(const packed_expert& expert);
  void plan_second(const packed_expert& expert);
  void run_first(const first_task& task, worker_state& worker);
  void run_second(const second_task& task, std::uint32_t number, worker_state& worker);
  void add_group(const second_task& task, std::size_t number, float* squares, worker_state& worker);
  void write_rows(const second_task& task, const float* sums, std::size_t stride);
  void add_norms(std::span<double> weighted_norms) const;
  [[nodiscard]] const std::byte* gather(const first_task& task, worker_state& worker);

  std::shared_ptr<const product_kernel> kernel_;
  std::shared_ptr<work_team> team_;
  std::size_t scratch_limit_;
  std::unique_ptr<pass> pass_;
  std::vector<worker_state> workers_;
};

}  // namespace troupe::compute
