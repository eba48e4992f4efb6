#include "compute/gpu_batch.hpp"

namespace troupe::compute {
namespace {

void fill(gpu_pass& pass, const batch& work) {
  for (std::uint32_t g = 0; g < work.groups.size(); ++g) {
    const auto& group = work.groups[g];
    const auto before = pass.assignments();
    for (std::size_t i = 0; i < group.rows.size(); ++i) {
      const auto row = group.rows[i] - pass.first_row;  // wraps to a large number for rows before the pass
      if (row >= pass.rows) continue;
      pass.row_of.push_back(row);
      pass.weight.push_back(group.gate_weights[i]);
      pass.group_of.push_back(static_cast<std::uint32_t>(pass.groups.size()));
    }
    if (pass.assignments() == before) continue;
    pass.groups.push_back(g);
    pass.begin_of.push_back(before);
  }
  pass.begin_of.push_back(pass.assignments());
  // A counting sort by row; it keeps the order within a row.
  pass.first_of.assign(pass.rows + 1, 0);
  for (const auto row : pass.row_of) ++pass.first_of[row + 1];
  for (std::uint32_t r = 0; r < pass.rows; ++r) pass.first_of[r + 1] += pass.first_of[r];
  auto next = pass.first_of;
  pass.by_row.resize(pass.row_of.size());
  for (std::uint32_t a = 0; a < pass.assignments(); ++a) pass.by_row[next[pass.row_of[a]]++] = a;
}

}  // namespace

std::vector<gpu_pass> cut_into_passes(const batch& work, std::uint32_t rows, std::uint32_t assignments_max,
                                      std::uint32_t rows_max) {
  std::vector<std::uint32_t> per_row(rows, 0);
  for (const auto& group : work.groups) {
    for (const auto row : group.rows) ++per_row[row];
  }
  std::vector<gpu_pass> passes;
  for (std::uint32_t row = 0; row < rows;) {
    auto& pass = passes.emplace_back();
    pass.first_row = row;
    std::uint64_t assignments = 0;
    do {
      assignments += per_row[row++];
    } while (row < rows && row - pass.first_row < rows_max && assignments + per_row[row] <= assignments_max);
    pass.rows = row - pass.first_row;
    fill(pass, work);
  }
  return passes;
}

}  // namespace troupe::compute
