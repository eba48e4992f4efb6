#include "compute/expert_engine.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <new>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/elementwise.hpp"

namespace troupe::compute {
namespace {

constexpr std::uint32_t rows_per_pass_max = 1024;
// Below this many bytes of weights and multiplications a batch is over before a second thread is awake.
constexpr std::size_t alone_below_work = 512 * limits::kib;
// Rows at which the arithmetic of an expert takes as long as reading its weights, roughly, on processors of today.
constexpr std::size_t balance_rows = 32;
constexpr std::uint32_t tasks_per_thread = 8;
// Panels of the width in one product: their sums stay in the second cache until the activation takes them.
constexpr std::uint32_t panels_per_product = 4;
// Panels of output columns in one task of the second phase, which holds sums of all rows for them.
constexpr std::uint32_t second_panels_max = 4;

std::uint32_t ceil_div(std::uint32_t a, std::uint32_t b) { return (a + b - 1) / b; }

}  // namespace

struct expert_engine::group_rows {
  std::uint32_t group;  // index in the batch
  std::uint32_t begin;  // of its assignments in the pass
  std::uint32_t count;
};

struct expert_engine::first_task {
  std::uint32_t group;      // index in pass::groups
  std::uint32_t row_begin;  // among the group's assignments
  std::uint32_t rows;
  std::uint32_t panel_begin;
  std::uint32_t panel_end;
};

struct expert_engine::second_task {
  std::uint32_t panel_begin;
  std::uint32_t panel_end;
};

// One pass: the rows [row_begin, row_end) of the batch. Vectors keep their memory from pass to pass.
struct expert_engine::pass {
  const engine_batch* batch{};
  std::uint32_t product_rows{};                   // most rows of one product
  std::vector<std::uint32_t> assignments_of_row;  // of the whole batch
  std::uint32_t row_begin{};
  std::uint32_t row_end{};
  std::vector<group_rows> groups;
  std::vector<std::uint32_t> rows;  // [assignments] row of the batch
  std::vector<float> weights;       // [assignments]
  std::vector<first_task> first;
  std::vector<second_task> second;
  std::size_t work{};  // bytes of weights, or what multiplications make up for
  scratch_buffer h;    // [assignments, h_stride] in the kernel's type
  std::size_t h_stride{};
  scratch_buffer squares;  // [second tasks, assignments] f32: sums of squares over the task's columns
};

struct expert_engine::worker_state {
  scratch_buffer gathered;  // [rows of a product, padded hidden]
  scratch_buffer products;  // [rows of a product, columns of a task] f32
  scratch_buffer sums;      // [rows of the pass, columns of a task] f32
  const first_task* gathered_for{};
};

expert_engine::expert_engine(std::shared_ptr<const product_kernel> kernel, std::shared_ptr<work_team> team)
    : kernel_(std::move(kernel)),
      team_(std::move(team)),
      scratch_limit_(limits::device_scratch_bytes_min),
      pass_(std::make_unique<pass>()),
      workers_(team_->threads()) {}

expert_engine::~expert_engine() = default;

std::size_t expert_engine::scratch_bytes() const {
  std::size_t bytes = pass_->h.bytes() + pass_->squares.bytes();
  for (const auto& worker : workers_) bytes += worker.gathered.bytes() + worker.products.bytes() + worker.sums.bytes();
  return bytes;
}

result<void> expert_engine::run(const engine_batch& batch, std::span<double> weighted_norms) {
  assert(weighted_norms.size() == batch.groups.size() && batch.inputs.size() == batch.outputs.size());
  auto rows = static_cast<std::uint32_t>(batch.inputs.size());
  try {
    pass_->batch = &batch;
    pass_->product_rows = rows_per_product(*batch.expert);
    pass_->assignments_of_row.assign(rows, 0);
    for (const auto& group : batch.groups) {
      for (auto row : group.rows) ++pass_->assignments_of_row[row];
    }
    for (std::uint32_t begin = 0, end = 0; begin < rows; begin = end) {
      end = end_of_pass(*batch.expert, begin);
      plan_pass(batch, begin, end);
      for (auto& worker : workers_) worker.gathered_for = nullptr;
      bool alone = pass_->work < alone_below_work;
      auto first = [this](std::uint32_t number, std::uint32_t worker) {
        run_first(pass_->first[number], workers_[worker]);
      };
      if (auto done = team_->run(static_cast<std::uint32_t>(pass_->first.size()), alone, first); !done) return done;
      auto second = [this](std::uint32_t number, std::uint32_t worker) {
        run_second(pass_->second[number], number, workers_[worker]);
      };
      if (auto done = team_->run(static_cast<std::uint32_t>(pass_->second.size()), alone, second); !done) return done;
      add_norms(weighted_norms);
    }
  } catch (const std::bad_alloc&) {
    return fail(errc::out_of_memory, fmt::format("scratch for {} rows of {} values; send fewer rows at a time", rows,
                                                 batch.expert->shape.hidden));
  }
  return {};
}

// Half of the scratch is for what each thread holds while it computes one product ...
std::uint32_t expert_engine::rows_per_product(const packed_expert& expert) const {
  std::size_t per_row =
      expert.first.inputs() * bytes_per_element(kernel_->type()) + 2 * panels_per_product * panel_width * sizeof(float);
  std::size_t rows = scratch_limit_ / 2 / team_->threads() / per_row;
  return static_cast<std::uint32_t>(std::clamp<std::size_t>(rows / 16 * 16, 16, limits::rows_per_product_max));
}

// ... and half for what a pass holds: the rows from `begin` on that fit, at least one.
std::uint32_t expert_engine::end_of_pass(const packed_expert& expert, std::uint32_t begin) const {
  std::size_t per_row = second_panels_max * panel_width * sizeof(float) * team_->threads();
  std::size_t per_assignment =
      expert.first.panels() * panel_width * bytes_per_element(kernel_->type()) + expert.second.panels() * sizeof(float);
  auto rows = static_cast<std::uint32_t>(pass_->assignments_of_row.size());
  std::size_t bytes = 0;
  for (std::uint32_t row = begin; row < rows && row - begin < rows_per_pass_max; ++row) {
    bytes += per_row + pass_->assignments_of_row[row] * per_assignment;
    if (bytes > scratch_limit_ / 2) return std::max(row, begin + 1);
  }
  return std::min(rows, begin + rows_per_pass_max);
}

void expert_engine::plan_pass(const engine_batch& batch, std::uint32_t row_begin, std::uint32_t row_end) {
  auto& current = *pass_;
  current.row_begin = row_begin;
  current.row_end = row_end;
  current.groups.clear();
  current.rows.clear();
  current.weights.clear();
  for (std::uint32_t g = 0; g < batch.groups.size(); ++g) {
    const auto& group = batch.groups[g];
    auto begin = static_cast<std::uint32_t>(current.rows.size());
    for (std::size_t i = 0; i < group.rows.size(); ++i) {
      if (group.rows[i] < row_begin || group.rows[i] >= row_end) continue;
      current.rows.push_back(group.rows[i]);
      current.weights.push_back(group.weights[i]);
    }
    auto count = static_cast<std::uint32_t>(current.rows.size()) - begin;
    if (count != 0) current.groups.push_back({.group = g, .begin = begin, .count = count});
  }
  const auto& expert = *batch.expert;
  std::size_t per_row = expert.bytes() / balance_rows;
  current.work = current.groups.size() * expert.bytes() + current.rows.size() * per_row;
  plan_first(expert);
  plan_second(expert);
  std::size_t assignments = current.rows.size();
  current.h_stride = kernel_->row_stride(expert.second.inputs());
  std::size_t slack = limits::rows_per_product_max;  // a padded product may read behind the last row
  current.h.take((assignments + slack) * current.h_stride * bytes_per_element(kernel_->type()));
  current.squares.take(current.second.size() * assignments * sizeof(float));
}

void expert_engine::plan_first(const packed_expert& expert) {
  auto& current = *pass_;
  current.first.clear();
  std::uint32_t panels = expert.first.panels();
  auto groups = std::max<std::uint32_t>(1, static_cast<std::uint32_t>(current.groups.size()));
  std::uint32_t pieces = ceil_div(tasks_per_thread * team_->threads(), groups);
  std::uint32_t step = std::max(1U, panels / std::max(1U, pieces));
  for (std::uint32_t g = 0; g < current.groups.size(); ++g) {
    for (std::uint32_t row = 0; row < current.groups[g].count; row += current.product_rows) {
      std::uint32_t rows = std::min(current.product_rows, current.groups[g].count - row);
      for (std::uint32_t panel = 0; panel < panels; panel += step) {
        current.first.push_back({.group = g,
                                 .row_begin = row,
                                 .rows = rows,
                                 .panel_begin = panel,
                                 .panel_end = std::min(panels, panel + step)});
      }
    }
  }
}

void expert_engine::plan_second(const packed_expert& expert) {
  auto& current = *pass_;
  current.second.clear();
  std::uint32_t panels = expert.second.panels();
  std::uint32_t step = std::clamp(panels / (tasks_per_thread * team_->threads()), 1U, second_panels_max);
  for (std::uint32_t panel = 0; panel < panels; panel += step) {
    current.second.push_back({.panel_begin = panel, .panel_end = std::min(panels, panel + step)});
  }
}

// The rows of a task side by side, padded with zeros. Neighbouring tasks of a worker mostly share them.
const std::byte* expert_engine::gather(const first_task& task, worker_state& worker) {
  const auto& expert = *pass_->batch->expert;
  std::size_t element = bytes_per_element(kernel_->type());
  std::size_t stride = kernel_->row_stride(expert.first.inputs()) * element;
  std::size_t used = expert.shape.hidden * element;
  std::byte* target = worker.gathered.take(padded_rows(task.rows) * stride);
  const auto* last = worker.gathered_for;
  if (last != nullptr && last->group == task.group && last->row_begin == task.row_begin) return target;
  worker.gathered_for = &task;
  const auto* rows = pass_->rows.data() + pass_->groups[task.group].begin + task.row_begin;
  for (std::uint32_t r = 0; r < task.rows; ++r) {
    std::memcpy(target + r * stride, pass_->batch->inputs[rows[r]], used);
    std::memset(target + r * stride + used, 0, stride - used);
  }
  return target;
}

namespace {

const float* bias_at(const packed_expert& expert, const std::byte* slot, std::size_t offset, std::size_t column) {
  if (!expert.shape.has_bias) return nullptr;
  return reinterpret_cast<const float*>(slot + offset) + column;
}

void store_row(dtype type, const float* source, std::size_t count, std::byte* target) {
  if (type == dtype::f32) {
    std::memcpy(target, source, count * sizeof(float));
  } else {
    narrow_to_bf16(source, count, target);
  }
}

}  // namespace

void expert_engine::run_first(const first_task& task, worker_state& worker) {
  const auto& batch = *pass_->batch;
  const auto& expert = *batch.expert;
  const auto& group = pass_->groups[task.group];
  const std::byte* slot = batch.groups[group.group].slot;
  const std::byte* rows = gather(task, worker);
  std::uint32_t parts = expert.parts();
  std::size_t element = bytes_per_element(kernel_->type());
  std::byte* h = pass_->h.take(0) + (group.begin + task.row_begin) * pass_->h_stride * element;
  for_each_run(expert.first, task.panel_begin, task.panel_end, panels_per_product, [&](const panel_run& run) {
    std::uint32_t end = run.begin + run.count;
    std::size_t stride = std::size_t{run.count} * parts * run.width;
    auto* c = reinterpret_cast<float*>(worker.products.take(padded_rows(task.rows) * stride * sizeof(float)));
    kernel_->multiply({.a = rows,
                       .rows = task.rows,
                       .inputs = expert.first.inputs(),
                       .panels = slot + expert.first_offset(run.begin),
                       .panel_count = run.count * parts,
                       .width = run.width,
                       .c = c,
                       .next = end < task.panel_end ? slot + expert.first_offset(end) : nullptr,
                       .asked = run.begin != task.panel_begin});
    for (std::uint32_t r = 0; r < task.rows; ++r) {
      for (std::uint32_t p = 0; p < run.count; ++p) {
        std::size_t column = std::size_t{run.begin + p} * panel_width;
        float* gate = c + r * stride + std::size_t{p} * parts * run.width;
        const float* up_bias = bias_at(expert, slot, expert.up_bias_offset(), column);
        const float* gate_bias = parts == 2 ? bias_at(expert, slot, expert.gate_bias_offset(), column) : up_bias;
        activate(expert.shape.act, gate, gate + run.width, gate_bias, up_bias, run.width);
        store_row(kernel_->type(), gate, run.width, h + (r * pass_->h_stride + column) * element);
      }
    }
  });
  if (task.panel_end != expert.first.panels()) return;
  // The down product reads padded inputs, too: zero times what an earlier batch left there could be NaN.
  std::size_t written = expert.first.outputs();
  for (std::uint32_t r = 0; r < task.rows; ++r) {
    std::memset(h + (r * pass_->h_stride + written) * element, 0, (pass_->h_stride - written) * element);
  }
}

void expert_engine::run_second(const second_task& task, std::uint32_t number, worker_state& worker) {
  std::size_t stride = std::size_t{task.panel_end - task.panel_begin} * panel_width;
  std::size_t rows = pass_->row_end - pass_->row_begin;
  auto* sums = reinterpret_cast<float*>(worker.sums.take(rows * stride * sizeof(float)));
  std::memset(sums, 0, rows * stride * sizeof(float));
  auto* squares = reinterpret_cast<float*>(pass_->squares.take(0)) + number * pass_->rows.size();
  std::fill_n(squares, pass_->rows.size(), 0.0F);
  for (std::size_t g = 0; g < pass_->groups.size(); ++g) add_group(task, g, squares, worker);
  write_rows(task, sums, stride);
}

void expert_engine::add_group(const second_task& task, std::size_t number, float* squares, worker_state& worker) {
  const auto& expert = *pass_->batch->expert;
  const auto& group = pass_->groups[number];
  const auto& slots = pass_->batch->groups;
  const std::byte* slot = slots[group.group].slot;
  const std::byte* next_slot =
      number + 1 < pass_->groups.size() ? slots[pass_->groups[number + 1].group].slot : nullptr;
  bool asked = number != 0;
  std::size_t element = bytes_per_element(kernel_->type());
  std::size_t sums_stride = std::size_t{task.panel_end - task.panel_begin} * panel_width;
  auto* sums = reinterpret_cast<float*>(worker.sums.take(0));
  for (std::uint32_t begin = 0; begin < group.count; begin += pass_->product_rows) {
    std::uint32_t rows = std::min(pass_->product_rows, group.count - begin);
    std::uint32_t first = group.begin + begin;
    for_each_run(expert.second, task.panel_begin, task.panel_end, panels_per_product, [&](const panel_run& run) {
      std::size_t stride = std::size_t{run.count} * run.width;
      auto* c = reinterpret_cast<float*>(worker.products.take(padded_rows(rows) * stride * sizeof(float)));
      std::uint32_t end = run.begin + run.count;
      const std::byte* next = nullptr;
      if (end < task.panel_end) {
        next = slot + expert.second_offset(end);
      } else if (begin + rows == group.count && next_slot != nullptr) {
        next = next_slot + expert.second_offset(task.panel_begin);
      }
      kernel_->multiply({.a = pass_->h.take(0) + first * pass_->h_stride * element,
                         .rows = rows,
                         .inputs = expert.second.inputs(),
                         .panels = slot + expert.second_offset(run.begin),
                         .panel_count = run.count,
                         .width = run.width,
                         .c = c,
                         .next = next,
                         .asked = asked});
      asked = true;
      std::size_t column = std::size_t{run.begin} * panel_width;
      std::size_t used = std::min<std::size_t>(stride, expert.shape.hidden - column);
      const float* bias = bias_at(expert, slot, expert.down_bias_offset(), column);
      for (std::uint32_t r = 0; r < rows; ++r) {
        std::size_t row = pass_->rows[first + r] - pass_->row_begin;
        float* sum = sums + row * sums_stride + (column - std::size_t{task.panel_begin} * panel_width);
        squares[first + r] += add_weighted(sum, c + r * stride, bias, pass_->weights[first + r], used);
      }
    });
  }
}

void expert_engine::write_rows(const second_task& task, const float* sums, std::size_t stride) {
  const auto& batch = *pass_->batch;
  std::size_t column = std::size_t{task.panel_begin} * panel_width;
  std::size_t used = std::min<std::size_t>(stride, batch.expert->shape.hidden - column);
  for (std::uint32_t row = pass_->row_begin; row < pass_->row_end; ++row) {
    const float* source = sums + (row - pass_->row_begin) * stride;
    if (batch.mode == row_output::store) {
      store_row(kernel_->type(), source, used, batch.outputs[row] + column * bytes_per_element(kernel_->type()));
    } else {
      auto* target = reinterpret_cast<float*>(batch.outputs[row]) + column;
      for (std::size_t i = 0; i < used; ++i) target[i] += source[i];
    }
  }
}

void expert_engine::add_norms(std::span<double> weighted_norms) const {
  const auto* squares = reinterpret_cast<const float*>(pass_->squares.take(0));
  std::size_t assignments = pass_->rows.size();
  for (const auto& group : pass_->groups) {
    for (std::uint32_t i = group.begin; i < group.begin + group.count; ++i) {
      double sum = 0;
      for (std::size_t task = 0; task < pass_->second.size(); ++task) sum += squares[task * assignments + i];
      weighted_norms[group.group] += std::abs(double{pass_->weights[i]}) * std::sqrt(sum);
    }
  }
}

}  // namespace troupe::compute
