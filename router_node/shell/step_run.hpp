// One step on its way through the blocks: the rows of all its texts, and what is not known to be good of them.
// Thread rule: the engine's thread; `normed` is read by the router's thread while experts are asked for it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "router_node/core/generation/step_plan.hpp"
#include "router_node/core/generation/version_history.hpp"
#include "router_node/shell/layer_job.hpp"
#include "router_node/trunk/trunk.hpp"

namespace troupe::router {

// One text's part of the step.
struct step_piece {
  planned_sequence planned;
  std::uint32_t first_row{};  // of the step
  degrade policy{degrade::wait};
  time_point deadline;
  std::uint32_t known_tokens{};               // of the text so far
  std::uint8_t flags{};                       // of all its rows together
  std::vector<std::uint32_t> inexact_layers;  // ascending
  std::optional<error> trouble;               // set: its rows do not count
  bool has_lost_versions{};                   // trouble: what its rows go by is held by nobody any more

  [[nodiscard]] std::uint32_t rows() const { return static_cast<std::uint32_t>(planned.tokens.size()); }
  [[nodiscard]] bool wants_token() const { return planned.samples && !trouble; }
};

// What the experts of one block are asked for: all rows at first (in one question for each version of the layer that
// they go by), then those of texts that want a substitute.
struct expert_question {
  std::vector<std::uint32_t> rows;          // of the step; empty: all
  std::optional<epoch_number> versions_of;  // layer_job::versions_of
  degrade policy{degrade::leave_out};
  bool is_open{true};
};

class step_run {
 public:
  step_run(step_plan plan, std::uint32_t hidden);

  [[nodiscard]] std::uint32_t rows() const { return rows_; }
  [[nodiscard]] std::vector<token_number> tokens() const;
  [[nodiscard]] std::vector<trunk_rows> trunk_pieces() const;
  // The piece of a row.
  [[nodiscard]] step_piece& piece_of(std::uint32_t row);
  // The latest of its texts: a question lasts as long as somebody waits for the answer.
  [[nodiscard]] time_point deadline() const;

  // The first questions of the block. Texts are pinned to their models, or go by what is served (`history` nullptr).
  [[nodiscard]] std::vector<expert_question> ask_all(const version_history* history) const;

  // The question as a job of the layer, without `done`. The job shares `normed`, or owns a copy of the rows it is
  // about.
  [[nodiscard]] layer_job make_job(const expert_question& question, const layer_plan& layer, time_point now) const;

  // Adds one question's answer to the rows, or notes who is in trouble. Returns questions to ask in turn: for texts
  // whose rows were left out and that take a substitute.
  [[nodiscard]] std::vector<expert_question> take_answer(const expert_question& asked, const layer_outcome& outcome,
                                                         std::uint32_t layer);

  step_plan plan;
  std::vector<step_piece> pieces;              // in the plan's order
  std::vector<float> x;                        // [R, H] the residual stream
  std::shared_ptr<std::vector<float>> normed;  // [R, H]; shared with questions that may outlive the step
  std::uint32_t block{};
  std::vector<expert_question> questions;  // of this block

 private:
  void add_rows(const expert_question& asked, const layer_answer& answer, std::uint32_t layer);
  [[nodiscard]] std::vector<expert_question> ask_again(const std::vector<std::uint32_t>& missing,
                                                       const expert_question& asked);

  std::uint32_t hidden_;
  std::uint32_t rows_{};
};

}  // namespace troupe::router
