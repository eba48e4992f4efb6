// Texts from accepted request to last token: one thread that runs the trunk, asks the router's thread for the experts
// of each block, samples, and tells the doors. Decisions are the scheduler's, the sampler's and the answer's.
//
//   plan ─> embed ─> [ attend ─> experts (layer_gateway) or dense MLP ] x blocks ─> head ─> sample ─> commit
//                         └ while one step waits for its experts, the other one computes
//
// A row whose expert has no replica is left out of the layer's answer (degrade::leave_out): its text is stalled, fails,
// or asks again with a substitute, as its request says; the other texts of the step go on.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <variant>
#include <vector>

#include "router_node/core/generation.hpp"
#include "router_node/core/generation/sampler.hpp"
#include "router_node/core/generation/scheduler.hpp"
#include "router_node/core/generation/version_history.hpp"
#include "router_node/shell/generation_metrics.hpp"
#include "router_node/shell/http_endpoints.hpp"

namespace troupe::model {
class tokenizer;
}

namespace troupe::router {

class model_plan;
class step_run;
struct expert_question;
struct step_piece;
class text_in_progress;
class trunk;

struct engine_settings {
  // All are borrowed and outlive the engine.
  trunk* model{};
  const model_plan* plan{};
  const model::tokenizer* tokenizer{};  // nullptr: token ids only
  generation_metrics* metrics{};
  bool pins{};  // texts go on with the expert versions that they began with
};

class generation_engine final : public generation_gateway {
 public:
  explicit generation_engine(const engine_settings& settings);
  ~generation_engine() override;
  generation_engine(const generation_engine&) = delete;
  generation_engine& operator=(const generation_engine&) = delete;

  // On the engine's thread; returns after stop(). `experts` is borrowed until then.
  void run(layer_gateway& experts);

  // -- any thread
  [[nodiscard]] const generation_limits& limits() const override { return limits_; }
  [[nodiscard]] result<std::uint64_t> generate(generation_job job) override;
  void cancel(std::uint64_t number) override;
  // Experts were masked, came back, or changed: texts that begin from now on share nothing with earlier ones.
  void change_model(model_change change);
  // The newest map with the expert versions of the oldest text in progress, or of the last change that came here when
  // no text goes by older ones. Never goes back.
  [[nodiscard]] epoch_number uses_since() const { return {uses_since_.load()}; }
  [[nodiscard]] std::size_t waiting() const;  // messages that the engine has not looked at
  // New requests are refused; those in progress get `grace` to end, what is left then ends as unavailable.
  void stop(std::chrono::milliseconds grace);

 private:
  struct new_text {
    std::uint64_t number{};
    generation_job job;
  };
  struct cancelled_text {
    std::uint64_t number{};
  };
  struct experts_answered {
    std::uint64_t step{};
    std::uint32_t question{};
    layer_outcome outcome;
  };
  struct stop_order {
    std::chrono::milliseconds grace{};
  };
  using item = std::variant<new_text, cancelled_text, experts_answered, model_change, stop_order>;

  void put(item i);
  [[nodiscard]] std::vector<item> wait(time_point until);

  void obey(new_text&& order, time_point now);
  void obey(cancelled_text&& order, time_point now);
  void obey(experts_answered&& order, time_point now);
  void obey(model_change&& order, time_point now);
  void obey(stop_order&& order, time_point now);
  [[nodiscard]] bool start_step(time_point now);
  void advance(step_run& step);
  void ask_experts(step_run& step, std::vector<expert_question> questions);
  void finish(step_run& step);
  void compute_logits(step_run& step);
  void compute_prompt_logprobs(step_run& step);
  [[nodiscard]] step_outcome conclude(step_piece& piece, std::span<float> logits, time_point now);
  [[nodiscard]] step_outcome choose_token(step_piece& piece, text_in_progress& text, std::span<float> logits,
                                          time_point now);
  void end(std::uint64_t number, generation_event last);
  void end_expired();
  void note_models();

  const engine_settings settings_;
  generation_limits limits_;

  mutable std::mutex mutex_;  // guards items_ and is_stopping_
  std::condition_variable has_items_;
  std::vector<item> items_;
  bool is_stopping_{};
  std::atomic<std::uint64_t> last_number_{};
  std::atomic<std::uint32_t> open_{};  // accepted and not ended
  std::atomic<std::uint64_t> uses_since_{};

  // The engine's thread.
  layer_gateway* experts_{};
  scheduler scheduler_;
  version_history versions_;
  std::unordered_map<std::uint64_t, std::unique_ptr<text_in_progress>> texts_;
  sampler sampler_;
  std::list<std::unique_ptr<step_run>> steps_;  // in flight, at most two
  std::vector<float> logits_;                   // of the step that is being finished, [pieces with a token, V]
  std::optional<time_point> stop_at_;
};

}  // namespace troupe::router
