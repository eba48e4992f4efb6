#include "router_node/shell/step_run.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::router {

step_run::step_run(step_plan p, std::uint32_t hidden) : plan(std::move(p)), hidden_(hidden) {
  for (const auto& planned : plan.sequences) {
    auto& piece = pieces.emplace_back();
    piece.planned = planned;
    piece.first_row = rows_;
    rows_ += piece.rows();
  }
  x.resize(std::size_t{rows_} * hidden);
  normed = std::make_shared<std::vector<float>>(x.size());
}

std::vector<token_number> step_run::tokens() const {
  std::vector<token_number> all;
  all.reserve(rows_);
  for (const auto& piece : pieces) all.insert(all.end(), piece.planned.tokens.begin(), piece.planned.tokens.end());
  return all;
}

std::vector<trunk_rows> step_run::trunk_pieces() const {
  std::vector<trunk_rows> all;
  all.reserve(pieces.size());
  for (const auto& piece : pieces) {
    all.push_back({.first_position = piece.planned.first_position,
                   .rows = piece.rows(),
                   .blocks = piece.planned.blocks,
                   .known_tokens = piece.known_tokens});
  }
  return all;
}

step_piece& step_run::piece_of(std::uint32_t row) {
  return *(std::ranges::upper_bound(pieces, row, {}, &step_piece::first_row) - 1);
}

time_point step_run::deadline() const { return std::ranges::max(pieces, {}, &step_piece::deadline).deadline; }

std::vector<expert_question> step_run::ask_all(const version_history* history) const {
  if (history == nullptr) return {expert_question{}};
  std::map<std::size_t, expert_question> by_age;  // of the layer's versions
  for (const auto& piece : pieces) {
    const auto model = piece.planned.model;
    auto& question = by_age[history->changes_since(model, layer_id::of(block))];
    question.versions_of = std::max(question.versions_of.value_or(model), model);
    for (std::uint32_t i = 0; i < piece.rows(); ++i) question.rows.push_back(piece.first_row + i);
  }
  std::vector<expert_question> asked;
  for (auto& [age, question] : by_age) asked.push_back(std::move(question));
  if (asked.size() == 1) asked.front().rows.clear();
  return asked;
}

layer_job step_run::make_job(const expert_question& question, const layer_plan& layer, time_point now) const {
  auto values = normed;
  if (!question.rows.empty()) {
    values = std::make_shared<std::vector<float>>();
    for (const auto row : question.rows) {
      const auto from = normed->begin() + std::ptrdiff_t{row} * hidden_;
      values->insert(values->end(), from, from + hidden_);
    }
  }
  layer_job job;
  job.layer = &layer;
  job.hidden = {.type = dtype::f32,
                .shape = {values->size() / hidden_, hidden_},
                .bytes = std::as_bytes(std::span<const float>(*values))};
  job.keep = values;
  job.versions_of = question.versions_of;
  job.policy = question.policy;
  job.is_part_of_text = true;
  job.arrived = now;
  job.deadline = std::min(deadline(), now + limits::experts_wait_max);
  return job;
}

std::vector<expert_question> step_run::take_answer(const expert_question& asked, const layer_outcome& outcome,
                                                   std::uint32_t layer) {
  const auto count = asked.rows.empty() ? rows_ : static_cast<std::uint32_t>(asked.rows.size());
  if (!outcome) {
    for (std::uint32_t i = 0; i < count; ++i) {
      auto& piece = piece_of(asked.rows.empty() ? i : asked.rows[i]);
      if (!piece.trouble) piece.trouble = outcome.error();
    }
    return {};
  }
  add_rows(asked, **outcome, layer);
  std::vector<std::uint32_t> missing;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto flags = (*outcome)->flags[i];
    if ((flags & flag_missing) == 0) continue;
    missing.push_back(asked.rows.empty() ? i : asked.rows[i]);
    if ((flags & flag_gone) == 0) continue;
    auto& piece = piece_of(missing.back());
    piece.has_lost_versions = true;
    piece.trouble = error{errc::unavailable,
                          fmt::format("the weights of layer {} that the text began with were given up; ask again, or "
                                      "allow another policy than fail",
                                      block)};
  }
  return ask_again(missing, asked);
}

void step_run::add_rows(const expert_question& asked, const layer_answer& answer, std::uint32_t layer) {
  const auto* from = reinterpret_cast<const float*>(answer.output.data());
  for (std::uint32_t i = 0; i < answer.rows; ++i, from += hidden_) {
    if ((answer.flags[i] & flag_missing) != 0) continue;
    const auto row = asked.rows.empty() ? i : asked.rows[i];
    auto* to = x.data() + std::size_t{row} * hidden_;
    for (std::uint32_t c = 0; c < hidden_; ++c) to[c] += from[c];
    if (answer.flags[i] == 0) continue;
    auto& piece = piece_of(row);
    piece.flags |= answer.flags[i];
    if (piece.inexact_layers.empty() || piece.inexact_layers.back() != layer) piece.inexact_layers.push_back(layer);
  }
}

std::vector<expert_question> step_run::ask_again(const std::vector<std::uint32_t>& missing,
                                                 const expert_question& asked) {
  std::vector<expert_question> again;
  for (const auto row : missing) {
    auto& piece = piece_of(row);
    if (piece.trouble) continue;
    if (piece.policy != degrade::substitute && piece.policy != degrade::renormalise) {
      piece.trouble =
          error{errc::unavailable,
                fmt::format("an expert of layer {} has no replica; retry later, or allow a substitute", block)};
      continue;
    }
    const auto same = std::ranges::find(again, piece.policy, &expert_question::policy);
    auto& question = same != again.end() ? *same : again.emplace_back();
    question.policy = piece.policy;
    question.versions_of = asked.versions_of;
    question.rows.push_back(row);
  }
  return again;
}

}  // namespace troupe::router
