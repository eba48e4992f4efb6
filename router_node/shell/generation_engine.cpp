#include "router_node/shell/generation_engine.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "router_node/core/generation/answer.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/shell/step_run.hpp"
#include "router_node/trunk/trunk.hpp"

namespace troupe::router {

using namespace std::chrono_literals;

// A text between its acceptance and its last event.
class text_in_progress {
 public:
  text_in_progress(generation_job accepted, const model::tokenizer* tokenizer, std::span<const token_number> end_tokens)
      : job(std::move(accepted)), made(job.request, tokenizer, end_tokens) {}

  [[nodiscard]] const generation_request& request() const { return job.request; }

  [[nodiscard]] std::uint32_t known_tokens() const {
    return static_cast<std::uint32_t>(request().prompt.size() + made.tokens().size());
  }

  generation_job job;
  answer made;
  prompt_logprobs prompt;  // filled row by row where they are wanted
  std::uint32_t cached_tokens{};
  std::optional<time_point> last_token;
  bool is_refreshed{};  // goes on with other versions than it began with, though it was pinned to these
};

namespace {

generation_limits limits_of(const trunk& model, std::uint64_t kv_tokens) {
  const auto context = std::min<std::uint64_t>(model.context_tokens(), kv_tokens);
  return {.vocabulary = model.vocabulary(), .context_tokens = static_cast<std::uint32_t>(context)};
}

std::vector<token_number> tokens_of(const generation_request& request) {
  auto tokens = request.prompt;
  tokens.insert(tokens.end(), request.resumed.begin(), request.resumed.end());
  return tokens;
}

// May the same rows succeed a little later?
bool is_passing(const error& reason) {
  return reason.code == errc::unavailable || reason.code == errc::overloaded || reason.code == errc::timeout;
}

}  // namespace

generation_engine::generation_engine(const engine_settings& settings)
    : settings_(settings), scheduler_({.kv_blocks = settings.model->kv_blocks(), .pins = settings.pins}) {
  limits_ = limits_of(*settings.model, scheduler_.capacity_tokens());
}

generation_engine::~generation_engine() = default;

// -- any thread ---------------------------------------------------------------------------------------------------

std::size_t generation_engine::waiting() const {
  std::lock_guard lock(mutex_);
  return items_.size();
}

void generation_engine::put(item i) {
  {
    std::lock_guard lock(mutex_);
    items_.push_back(std::move(i));
  }
  has_items_.notify_one();
}

result<std::uint64_t> generation_engine::generate(generation_job job) {
  {
    std::lock_guard lock(mutex_);
    if (is_stopping_) return fail(errc::unavailable, "this router is stopping; use another one");
  }
  if (open_.fetch_add(1) >= limits::generations_open_max) {
    open_.fetch_sub(1);
    return fail(errc::overloaded,
                fmt::format("{} texts are in progress or wait; retry later", limits::generations_open_max));
  }
  const auto number = ++last_number_;
  put(new_text{number, std::move(job)});
  return number;
}

void generation_engine::cancel(std::uint64_t number) { put(cancelled_text{number}); }

void generation_engine::change_model(model_change change) { put(std::move(change)); }

void generation_engine::stop(std::chrono::milliseconds grace) {
  {
    std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  put(stop_order{grace});
}

// -- the thread ---------------------------------------------------------------------------------------------------

void generation_engine::run(layer_gateway& experts) {
  experts_ = &experts;
  auto now = std::chrono::steady_clock::now();
  while (true) {
    auto until = now + limits::generation_refresh_interval;
    if (const auto wakeup = scheduler_.next_wakeup(now)) until = std::min(until, *wakeup);
    if (stop_at_) until = std::min(until, *stop_at_);
    for (auto& order : wait(until)) {
      now = std::chrono::steady_clock::now();
      std::visit([&](auto& what) { obey(std::move(what), now); }, order);
    }
    now = std::chrono::steady_clock::now();
    while (start_step(now)) now = std::chrono::steady_clock::now();
    end_expired();
    note_models();
    settings_.metrics->refresh(scheduler_);
    if (stop_at_ && (texts_.empty() || now >= *stop_at_)) break;
  }
  while (!texts_.empty()) {
    end(texts_.begin()->first, error{errc::unavailable, "this router has stopped; use another one"});
  }
}

std::vector<generation_engine::item> generation_engine::wait(time_point until) {
  std::unique_lock lock(mutex_);
  has_items_.wait_until(lock, until, [this] { return !items_.empty(); });
  return std::exchange(items_, {});
}

void generation_engine::obey(new_text&& order, time_point now) {
  const auto number = order.number;
  auto text = std::make_unique<text_in_progress>(std::move(order.job), settings_.tokenizer, settings_.model->eos());
  const auto& request = text->request();
  auto& kept = *texts_.emplace(number, std::move(text)).first->second;
  if (kept.made.is_over()) return end(number, kept.made.finish());
  const auto total = request.prompt.size() + request.max_tokens;
  if (request.prompt.empty() || total > limits_.context_tokens) {
    return end(number, error{errc::invalid_request,
                             fmt::format("{} tokens of prompt and {} of answer do not fit in a context of {}",
                                         request.prompt.size(), request.max_tokens, limits_.context_tokens)});
  }
  auto added = scheduler_.add({number},
                              {.tokens = tokens_of(request),
                               .prompt_tokens = static_cast<std::uint32_t>(request.prompt.size()),
                               .wants_all_rows = request.wants_prompt_logprobs,
                               .client = request.client,
                               .deadline = request.deadline},
                              now);
  if (!added) end(number, std::move(added.error()));
}

void generation_engine::obey(cancelled_text&& order, time_point) {
  if (texts_.erase(order.number) == 0) return;
  --open_;
  scheduler_.cancel({order.number});
  settings_.metrics->on_cancelled();
}

void generation_engine::obey(model_change&& order, time_point) {
  if (order.layers.empty()) return scheduler_.forget_prefixes();
  versions_.add(std::move(order));
  scheduler_.change_model(versions_.newest());
}

void generation_engine::note_models() {
  if (versions_.is_empty()) return;
  const auto oldest = scheduler_.oldest_model();
  versions_.forget_before(oldest);
  uses_since_ = versions_.last_map_of(oldest).value;
}

void generation_engine::obey(stop_order&& order, time_point now) { stop_at_ = now + order.grace; }

// -- steps --------------------------------------------------------------------------------------------------------

bool generation_engine::start_step(time_point now) {
  auto plan = scheduler_.plan(now);
  if (!plan) return false;
  auto& step = *steps_.emplace_back(std::make_unique<step_run>(std::move(*plan), settings_.model->hidden()));
  for (auto& piece : step.pieces) {
    const auto at = texts_.find(piece.planned.id.value);
    if (at == texts_.end()) continue;
    piece.policy = at->second->request().policy;
    piece.deadline = at->second->request().deadline;
    piece.known_tokens = at->second->known_tokens();
    at->second->cached_tokens = std::max(at->second->cached_tokens, piece.planned.cached_tokens);
  }
  settings_.model->embed(step.tokens(), step.x.data());
  advance(step);
  return true;
}

// Computes until experts have to be waited for, or to the end.
void generation_engine::advance(step_run& step) {
  for (; step.block < settings_.model->layers(); ++step.block) {
    auto done = settings_.model->attend(step.block, step.trunk_pieces(), step.x.data(), step.normed->data());
    if (done && settings_.model->is_moe(step.block))
      return ask_experts(step, step.ask_all(settings_.pins ? &versions_ : nullptr));
    if (done) done = settings_.model->add_dense(step.block, step.rows(), step.normed->data(), step.x.data());
    if (!done) {
      for (auto& piece : step.pieces) piece.trouble = done.error();
      break;
    }
  }
  finish(step);
}

void generation_engine::ask_experts(step_run& step, std::vector<expert_question> questions) {
  const auto now = std::chrono::steady_clock::now();
  for (auto& question : questions) {
    step.questions.push_back(std::move(question));
    const auto index = static_cast<std::uint32_t>(step.questions.size() - 1);
    auto job = step.make_job(step.questions.back(), *settings_.plan->find(layer_id::of(step.block)), now);
    job.done = [this, id = step.plan.id.value, index](layer_outcome outcome) {
      put(experts_answered{id, index, std::move(outcome)});
    };
    if (auto sent = experts_->submit(std::move(job)); !sent) {
      put(experts_answered{step.plan.id.value, index, fail(sent.error())});
    }
  }
}

void generation_engine::obey(experts_answered&& order, time_point) {
  const auto at = std::ranges::find(steps_, order.step, [](const auto& step) { return step->plan.id.value; });
  if (at == steps_.end()) return;
  auto& step = **at;
  auto& asked = step.questions[order.question];
  asked.is_open = false;
  auto again = step.take_answer(asked, order.outcome, step.block);
  ask_experts(step, std::move(again));
  if (std::ranges::any_of(step.questions, &expert_question::is_open)) return;
  step.questions.clear();
  ++step.block;
  if (std::ranges::all_of(step.pieces, [](const auto& piece) { return piece.trouble.has_value(); })) {
    return finish(step);
  }
  advance(step);
}

// Head, sampling, events; the step is over.
void generation_engine::finish(step_run& step) {
  compute_prompt_logprobs(step);
  compute_logits(step);
  const auto now = std::chrono::steady_clock::now();
  std::vector<step_outcome> outcomes;
  outcomes.reserve(step.pieces.size());
  std::size_t sampled = 0;
  for (auto& piece : step.pieces) {
    const auto row = std::span(logits_).subspan(sampled, piece.wants_token() ? limits_.vocabulary : 0);
    sampled += row.size();
    outcomes.push_back(conclude(piece, row, now));
  }
  scheduler_.commit(step.plan.id, outcomes, now);
  std::erase_if(steps_, [&](const auto& other) { return other.get() == &step; });
}

// Logits of every piece that is to get a token, one after the other.
void generation_engine::compute_logits(step_run& step) {
  std::vector<std::uint32_t> rows;
  for (const auto& piece : step.pieces) {
    if (piece.wants_token()) rows.push_back(piece.first_row + piece.rows() - 1);
  }
  logits_.resize(rows.size() * limits_.vocabulary);
  if (rows.empty()) return;
  if (auto done = settings_.model->logits(rows, step.x.data(), logits_.data()); !done) {
    for (auto& piece : step.pieces) piece.trouble = done.error();
  }
}

// A row tells the logprob of the token behind it.
void generation_engine::compute_prompt_logprobs(step_run& step) {
  for (auto& piece : step.pieces) {
    const auto at = texts_.find(piece.planned.id.value);
    if (piece.trouble || !piece.planned.wants_all_rows || at == texts_.end()) continue;
    auto& text = *at->second;
    const auto& prompt = text.request().prompt;
    text.prompt.tokens.resize(prompt.size());
    std::vector<float> logits(limits_.vocabulary);
    for (std::uint32_t i = 0; i < piece.rows(); ++i) {
      const auto next = piece.planned.first_position + i + 1;
      if (next >= prompt.size()) break;
      const std::uint32_t row = piece.first_row + i;
      if (auto done = settings_.model->logits({&row, 1}, step.x.data(), logits.data()); !done) {
        piece.trouble = done.error();
        break;
      }
      auto logprobs = log_probabilities(logits, prompt[next], text.request().top_logprobs);
      if (!logprobs) {
        piece.trouble = logprobs.error();
        break;
      }
      text.prompt.tokens[next] = std::move(*logprobs);
    }
  }
}

step_outcome generation_engine::conclude(step_piece& piece, std::span<float> logits, time_point now) {
  const auto number = piece.planned.id.value;
  const auto at = texts_.find(number);
  if (at == texts_.end()) return rows_failed{};  // cancelled meanwhile
  auto& text = *at->second;
  if (piece.has_lost_versions && text.request().policy != degrade::fail) {
    text.is_refreshed = true;
    scheduler_.unpin({number});
    return rows_stalled{now};
  }
  if (piece.trouble) {
    const bool waits = text.request().policy == degrade::wait && is_passing(*piece.trouble);
    if (waits && now < text.request().deadline) return rows_stalled{now + limits::stalled_text_pause};
    end(number, std::move(*piece.trouble));
    return rows_failed{};
  }
  if (!piece.wants_token()) return rows_computed{.is_exact = piece.flags == 0};
  return choose_token(piece, text, logits, now);
}

step_outcome generation_engine::choose_token(step_piece& piece, text_in_progress& text, std::span<float> logits,
                                             time_point now) {
  const auto number = piece.planned.id.value;
  const auto& request = text.request();
  if (!text.last_token && request.wants_prompt_logprobs) text.job.on_event(std::move(text.prompt));
  auto picked = sampler_.sample(logits, request.sampling, request.prompt, text.made.tokens(),
                                request.wants_logprobs ? std::optional(request.top_logprobs) : std::nullopt);
  if (!picked) {
    end(number, std::move(picked.error()));
    return rows_failed{};
  }
  text.last_token ? settings_.metrics->on_next_token(now - *text.last_token)
                  : settings_.metrics->on_first_token(now - request.arrived);
  text.last_token = now;
  const token_sampled outcome{.token = picked->id, .is_last = false, .is_exact = piece.flags == 0};
  const auto flags = static_cast<std::uint8_t>(piece.flags | (text.is_refreshed ? flag_refreshed : 0));
  auto told = text.made.add({.id = picked->id,
                             .position = {},
                             .text = {},
                             .logprob = picked->logprob,
                             .top = std::move(picked->top),
                             .flags = flags,
                             .inexact_layers = std::move(piece.inexact_layers)});
  text.job.on_event(std::move(told.event));
  if (!told.end) return outcome;
  end(number, std::move(*told.end));
  return token_sampled{outcome.token, true, outcome.is_exact};
}

// -- ends ---------------------------------------------------------------------------------------------------------

void generation_engine::end_expired() {
  for (auto& ended : scheduler_.take_ended()) end(ended.id.value, std::move(ended.reason));
}

void generation_engine::end(std::uint64_t number, generation_event last) {
  const auto at = texts_.find(number);
  if (at == texts_.end()) return;
  const auto text = std::move(at->second);
  texts_.erase(at);
  --open_;
  if (auto* reason = std::get_if<error>(&last)) {
    scheduler_.cancel({number});
    settings_.metrics->on_error(reason->code);
  } else if (auto* ending = std::get_if<generation_end>(&last)) {
    ending->cached_tokens = text->cached_tokens;
    settings_.metrics->on_end(*ending, std::chrono::steady_clock::now() - text->request().arrived);
  }
  text->job.on_event(std::move(last));
}

}  // namespace troupe::router
