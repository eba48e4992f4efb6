// Loads of experts over time, from a CSV file that anybody can write: what `troupe simulate --loads` plans for.
//
//   step,layer,expert,load      the header; other columns may stand between and are ignored
//   0,3,17,2048.0               numbers from 0; load: rows, or any other unit, 0 or more
//
// Rows may come in any order; an expert without a row in a step had no load in it. Plain values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <string>
#include <vector>

#include "cli/simulation/load_source.hpp"
#include "common/error.hpp"

namespace troupe::cli {

struct load_row {
  std::uint32_t step{}, layer{}, expert{};
  double load{};
  std::uint64_t line{};  // of the file, from 1
};

struct load_trace {
  std::vector<std::uint32_t> steps;    // numbers, ascending
  std::vector<std::uint32_t> layers;   // numbers, ascending
  std::vector<std::uint32_t> experts;  // of each of these layers: the largest number in any step, plus 1
  std::vector<load_row> rows;          // by step, layer, expert

  // [layer][expert], in the order of `layers`, of each step in turn: calls `use(step number, loads)`.
  template <class Use>
  void each_step(Use use) const;
};

// invalid_request names the line: a column that is missing, what is no number, negative or too large, a second row for
// the same expert. `name` is what messages call the file.
[[nodiscard]] result<load_trace> parse_load_trace(std::istream& csv, const std::string& name);
// not_found when it cannot be opened.
[[nodiscard]] result<load_trace> read_load_trace(const std::filesystem::path& file);

// @pre `trace` outlives it
[[nodiscard]] load_source source_of(const load_trace& trace);

template <class Use>
void load_trace::each_step(Use use) const {
  std::vector<std::vector<double>> loads(layers.size());
  auto row = rows.begin();
  for (auto step : steps) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
      loads[l].assign(experts[l], 0);
      for (; row != rows.end() && row->step == step && row->layer == layers[l]; ++row) {
        loads[l][row->expert] = row->load;
      }
    }
    use(step, loads);
  }
}

}  // namespace troupe::cli
