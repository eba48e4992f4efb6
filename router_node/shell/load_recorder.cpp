#include "router_node/shell/load_recorder.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <utility>

namespace troupe::router {

result<std::unique_ptr<load_recorder>> load_recorder::open(load_recorder_settings settings, const model_plan& plan) {
  const auto name = settings.file.string();
  std::error_code ignored;
  if (std::filesystem::exists(settings.file, ignored)) {
    return fail(errc::conflict,
                fmt::format("--record-trace {}: it exists, and steps of two records would mix; move it away, or name "
                            "another file",
                            name));
  }
  std::ofstream out{settings.file};
  out << "step,layer,expert,load\n" << std::flush;
  if (!out) {
    return fail(errc::unavailable,
                fmt::format("--record-trace {}: cannot be written; name a file in a folder that exists and is the "
                            "router's",
                            name));
  }
  return std::unique_ptr<load_recorder>(new load_recorder(std::move(settings), plan, std::move(out)));
}

// Decoder-only models number their layers as the file may; those of two stacks are numbered by place.
load_recorder::load_recorder(load_recorder_settings settings, const model_plan& plan, std::ofstream out)
    : settings_{std::move(settings)}, out_{std::move(out)} {
  layers_.resize(plan.layers().size());
  rows_.resize(plan.layers().size());
  for (const auto& layer : plan.layers()) {
    layers_[layer.place] = layer.id.value < limits::layers_max ? layer.id.value : layer.place;
    rows_[layer.place].resize(layer.num_experts);
  }
}

load_recorder::~load_recorder() { end_window(); }

void load_recorder::count(std::uint32_t place, std::span<const std::int32_t> expert_ids) {
  auto& rows = rows_[place];
  for (const auto id : expert_ids) {
    if (id >= 0 && static_cast<std::size_t>(id) < rows.size()) ++rows[static_cast<std::size_t>(id)];
  }
}

void load_recorder::pass(double seconds) {
  seconds_ += seconds;
  if (seconds_ < static_cast<double>(settings_.window.count())) return;
  seconds_ = 0;
  end_window();
}

// A window without a row is a step of the file that simulate does not see; it keeps its number.
void load_recorder::end_window() {
  const auto step = step_++;
  if (is_full_) return;
  std::string text;
  std::size_t lines = 0;
  for (std::size_t place = 0; place < rows_.size(); ++place) {
    for (std::size_t e = 0; e < rows_[place].size(); ++e) {
      if (rows_[place][e] == 0) continue;
      text += fmt::format("{},{},{},{}\n", step, layers_[place], e, rows_[place][e]);
      ++lines;
    }
    std::ranges::fill(rows_[place], 0);
  }
  if (written_ + lines <= settings_.rows_max) {
    written_ += lines;
    out_ << text << std::flush;
    if (out_) return;
    spdlog::warn("the record of loads {} cannot be written any more (is the disk full?); it ends here",
                 settings_.file.string());
  } else {
    spdlog::warn("the record of loads {} has {} rows, and with the next step it would have more than {}; it ends here",
                 settings_.file.string(), written_, settings_.rows_max);
  }
  is_full_ = true;
}

}  // namespace troupe::router
