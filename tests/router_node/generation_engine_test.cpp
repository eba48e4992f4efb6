// The generation engine on golden checkpoints. The experts are the model library's plain loops behind the layer
// gateway, so that what is tested is the engine: steps, policies of lost experts, ends, limits.
#include "router_node/shell/generation_engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <fstream>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/limits.hpp"
#include "model/checkpoint.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/trunk/trunk.hpp"
#include "tests/model/golden_file.hpp"
#include "tests/model/reference_layer.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using model::test::golden_file;
using model::test::golden_folder;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr auto patience = 60s;  // no test waits so long unless it fails

// Answers at once, on the caller's thread, unless a layer is told to have lost its experts.
class plain_experts final : public layer_gateway {
 public:
  explicit plain_experts(const model::checkpoint& source) : source_(source) {}

  result<std::uint64_t> submit(layer_job job) override {
    const auto& layer = *source_.model().find(job.layer->id);
    const std::span hidden{reinterpret_cast<const float*>(job.hidden.bytes.data()), job.hidden.bytes.size() / 4};
    auto computed = model::test::run_layer(source_, layer, hidden);
    auto answer = std::make_shared<layer_answer>();
    answer->rows = static_cast<std::uint32_t>(job.hidden.shape[0]);
    answer->hidden = job.layer->hidden;
    answer->flags.resize(answer->rows);
    const auto bytes = std::as_bytes(std::span(computed.block));
    answer->output.assign(bytes.begin(), bytes.end());
    std::unique_lock lock(mutex_);
    asked_.push_back({job.layer->id, answer->rows, job.versions_of});
    changed_.notify_all();
    changed_.wait(lock, [this] { return allowed_ > 0; });
    --allowed_;
    policies_.insert(job.policy);
    if (given_up_ && job.versions_of == given_up_) answer->flags.assign(answer->rows, flag_missing | flag_gone);
    if (lost_ && job.layer->id == *lost_) {
      if (job.policy == degrade::leave_out) answer->flags.assign(answer->rows, flag_missing);
      if (job.policy == degrade::substitute) answer->flags.assign(answer->rows, flag_substituted);
    }
    lock.unlock();
    job.done(std::move(answer));
    return 1;
  }
  void cancel(std::uint64_t) override {}

  void lose(std::optional<layer_id> layer) {
    std::lock_guard lock(mutex_);
    lost_ = layer;
  }
  // Answers so many questions and then none, until told anew.
  void allow(std::uint64_t count) {
    std::lock_guard lock(mutex_);
    allowed_ = count;
    changed_.notify_all();
  }
  // Nobody holds the versions of that map any more.
  void give_up(epoch_number versions_of) {
    std::lock_guard lock(mutex_);
    given_up_ = versions_of;
  }
  struct question {
    layer_id layer;
    std::uint32_t rows{};
    std::optional<epoch_number> versions_of;
  };
  // All so far, once there are that many.
  std::vector<question> asked(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, patience, [&] { return asked_.size() >= count; }));
    return asked_;
  }
  std::set<degrade> policies() {
    std::lock_guard lock(mutex_);
    return policies_;
  }

 private:
  const model::checkpoint& source_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t allowed_{~std::uint64_t{0}};
  std::vector<question> asked_;
  std::optional<epoch_number> given_up_;
  std::optional<layer_id> lost_;
  std::set<degrade> policies_;
};

// Everything that one request was told.
struct told {
  std::vector<token_event> tokens;
  std::optional<prompt_logprobs> prompt;
  std::optional<generation_end> end;
  std::optional<error> failure;

  [[nodiscard]] std::vector<token_number> ids() const {
    std::vector<token_number> all;
    for (const auto& t : tokens) all.push_back(t.id);
    return all;
  }
};

class listener {
 public:
  std::function<void(generation_event)> callback() {
    return [this](generation_event event) {
      std::lock_guard lock(mutex_);
      if (is_over()) ADD_FAILURE() << "an event after the last one";
      if (auto* token = std::get_if<token_event>(&event)) said_.tokens.push_back(std::move(*token));
      if (auto* prompt = std::get_if<prompt_logprobs>(&event)) said_.prompt = std::move(*prompt);
      if (auto* end = std::get_if<generation_end>(&event)) said_.end = std::move(*end);
      if (auto* failure = std::get_if<error>(&event)) said_.failure = std::move(*failure);
      changed_.notify_all();
    };
  }
  // Until the request is over, or has so many tokens.
  told wait(std::size_t tokens = SIZE_MAX) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, patience, [&] { return is_over() || said_.tokens.size() >= tokens; }));
    return said_;
  }

 private:
  [[nodiscard]] bool is_over() const { return said_.end || said_.failure; }

  std::mutex mutex_;
  std::condition_variable changed_;
  told said_;
};

class engine_on : public ::testing::Test {
 protected:
  explicit engine_on(const std::string& family = "mixtral", bool pins = false) : folder_(golden_folder(family)) {
    auto checkpoint = model::checkpoint::open(folder_);
    if (!checkpoint) throw std::runtime_error(checkpoint.error().message);
    checkpoint_ = std::make_unique<model::checkpoint>(std::move(*checkpoint));
    plan_ = model_plan::make(checkpoint_->model(), dtype::f32);
    auto made = trunk::make(*checkpoint_, {.type = dtype::f32, .threads = 1, .kv_bytes = 8 << 20});
    if (!made) throw std::runtime_error(made.error().message);
    trunk_ = std::move(*made);
    experts_ = std::make_unique<plain_experts>(*checkpoint_);
    engine_ = std::make_unique<generation_engine>(engine_settings{
        .model = trunk_.get(), .plan = &plan_, .tokenizer = nullptr, .metrics = &metrics_, .pins = pins});
    thread_ = std::thread([this] { engine_->run(*experts_); });
  }
  ~engine_on() override {
    experts_->allow(~std::uint64_t{0});
    engine_->stop(0ms);
    thread_.join();
  }

  static generation_request ask(std::vector<token_number> prompt, std::uint32_t max_tokens) {
    generation_request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.arrived = std::chrono::steady_clock::now();
    request.deadline = request.arrived + patience;
    return request;
  }

  std::uint64_t start(generation_request request, listener& to) {
    auto number = engine_->generate({std::move(request), to.callback()});
    EXPECT_TRUE(number) << number.error().message;
    return number.value_or(0);
  }
  told run(generation_request request) {
    listener to;
    start(std::move(request), to);
    return to.wait();
  }

  std::filesystem::path folder_;
  std::unique_ptr<model::checkpoint> checkpoint_;
  model_plan plan_;
  std::unique_ptr<trunk> trunk_;
  std::unique_ptr<plain_experts> experts_;
  generation_metrics metrics_;
  std::unique_ptr<generation_engine> engine_;
  std::thread thread_;
};

struct golden_case {
  std::vector<token_number> prompt, greedy;
};

std::vector<golden_case> golden_cases(const std::filesystem::path& folder) {
  std::vector<golden_case> cases;
  const auto file = nlohmann::json::parse(std::ifstream(folder / "generation.json"));
  for (const auto& c : file.at("cases")) {
    cases.push_back(
        {c.at("prompt_ids").get<std::vector<token_number>>(), c.at("greedy_ids").get<std::vector<token_number>>()});
  }
  return cases;
}

class golden_texts : public engine_on, public ::testing::WithParamInterface<const char*> {
 protected:
  golden_texts() : engine_on(GetParam()) {}
};

TEST_P(golden_texts, are_the_reference_alone_and_among_31_others) {
  const auto cases = golden_cases(folder_);
  ASSERT_FALSE(cases.empty());
  for (const auto& c : cases) {
    const auto said = run(ask(c.prompt, static_cast<std::uint32_t>(c.greedy.size())));
    EXPECT_EQ(said.ids(), c.greedy);
    ASSERT_TRUE(said.end);
    EXPECT_EQ(said.end->reason, finish_reason::length);
    EXPECT_EQ(said.end->prompt_tokens, c.prompt.size());
    EXPECT_EQ(said.end->answer_tokens, c.greedy.size());
  }
  std::vector<std::unique_ptr<listener>> all;
  for (std::size_t i = 0; i < 32; ++i) {
    auto request = ask(cases[i % cases.size()].prompt, 32);
    if (i >= cases.size()) {  // the others: hot, long, of their own
      request.sampling.temperature = 1.5F;
      request.sampling.seed = i;
      request.prompt.push_back(static_cast<token_number>(i));
    }
    all.push_back(std::make_unique<listener>());
    start(std::move(request), *all.back());
  }
  for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(all[i]->wait().ids(), cases[i].greedy) << i;
  for (auto& one : all) EXPECT_TRUE(one->wait().end);
}

INSTANTIATE_TEST_SUITE_P(families, golden_texts, ::testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"));

class engine : public engine_on {};

TEST_F(engine, goes_on_with_what_another_router_began) {
  const auto whole = run(ask({5, 6, 7}, 24));
  for (const float temperature : {0.0F, 1.0F}) {
    auto request = ask({5, 6, 7}, 24);
    request.sampling.temperature = temperature;
    request.sampling.seed = 77;
    const auto undisturbed = run(request).ids();
    request.resumed.assign(undisturbed.begin(), undisturbed.begin() + 10);
    const auto rest = run(request);
    EXPECT_EQ(rest.ids(), std::vector<token_number>(undisturbed.begin() + 10, undisturbed.end()));
    EXPECT_EQ(rest.tokens.front().position, 10U);
    EXPECT_EQ(rest.end->answer_tokens, 24U);
  }
}

TEST_F(engine, ends_a_resumed_answer_that_was_whole_already) {
  auto request = ask({5, 6, 7}, 4);
  request.resumed = {1, 2, 3, 4};
  const auto said = run(request);
  EXPECT_THAT(said.tokens, SizeIs(0));
  ASSERT_TRUE(said.end);
  EXPECT_EQ(said.end->reason, finish_reason::length);
}

TEST_F(engine, stops_at_an_end_token) {
  const auto ids = run(ask({5, 6, 7}, 24)).ids();
  auto request = ask({5, 6, 7}, 24);
  request.stop_token_ids = {ids[3]};
  const auto said = run(request);
  const auto first = static_cast<std::size_t>(std::ranges::find(ids, ids[3]) - ids.begin());
  EXPECT_EQ(said.ids(), std::vector<token_number>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(first) + 1));
  EXPECT_EQ(said.end->reason, finish_reason::stop);
}

TEST_F(engine, prompt_logprobs_are_those_of_the_reference) {
  const golden_file reference(folder_ / "logits.safetensors");
  const auto ids = reference.integers("prompt_ids");
  const auto logits = reference.floats("logits");
  const auto vocabulary = logits.size() / ids.size();
  auto request = ask({ids.begin(), ids.end()}, 1);
  request.wants_logprobs = request.wants_prompt_logprobs = true;
  request.top_logprobs = 3;
  for (int again = 0; again < 2; ++again) {  // the second time everything is in the prefix cache
    const auto said = run(request);
    ASSERT_TRUE(said.prompt);
    ASSERT_THAT(said.prompt->tokens, SizeIs(ids.size()));
    EXPECT_THAT(said.prompt->tokens[0], SizeIs(0));
    for (std::size_t i = 1; i < ids.size(); ++i) {
      const std::span row(logits.data() + (i - 1) * vocabulary, vocabulary);
      const auto wanted = log_probabilities(row, static_cast<token_number>(ids[i]), 3);
      ASSERT_TRUE(wanted);
      ASSERT_THAT(said.prompt->tokens[i], SizeIs(wanted->size()));
      for (std::size_t t = 0; t < wanted->size(); ++t) {
        EXPECT_EQ(said.prompt->tokens[i][t].id, (*wanted)[t].id);
        EXPECT_NEAR(said.prompt->tokens[i][t].logprob, (*wanted)[t].logprob, 1e-3);
      }
    }
  }
}

TEST_F(engine, p7_a_text_that_waits_is_stalled_and_goes_on_exactly) {
  const auto whole = run(ask({5, 6, 7}, 12)).ids();
  experts_->lose(layer_id::of(1));
  listener to;
  start(ask({5, 6, 7}, 12), to);
  while (!experts_->policies().contains(degrade::leave_out)) std::this_thread::yield();
  auto failing = ask({5, 6, 7}, 12);
  failing.policy = degrade::fail;
  const auto failed = run(failing);  // meanwhile another one is told at once
  ASSERT_TRUE(failed.failure);
  EXPECT_EQ(failed.failure->code, errc::unavailable);
  EXPECT_THAT(failed.failure->message, HasSubstr("layer 1"));
  experts_->lose(std::nullopt);
  const auto said = to.wait();
  EXPECT_EQ(said.ids(), whole);
  EXPECT_EQ(said.end->approximate_tokens, 0U);
}

TEST_F(engine, p7_a_substitute_is_declared_token_by_token_and_not_cached) {
  experts_->lose(layer_id::of(1));
  auto request = ask(std::vector<token_number>(40, 9), 5);
  request.policy = degrade::substitute;
  const auto said = run(request);
  ASSERT_THAT(said.tokens, SizeIs(5));
  for (const auto& token : said.tokens) {
    EXPECT_EQ(token.flags, flag_substituted);
    EXPECT_THAT(token.inexact_layers, ElementsAre(1));
  }
  EXPECT_EQ(said.end->approximate_tokens, 5U);
  experts_->lose(std::nullopt);
  const auto exact = run(request);
  EXPECT_EQ(exact.end->cached_tokens, 0U);
  EXPECT_EQ(exact.end->approximate_tokens, 0U);
  EXPECT_GE(run(request).end->cached_tokens, 32U) << "now the prompt is known";
}

TEST_F(engine, p7_a_text_that_waits_ends_at_its_deadline) {
  experts_->lose(layer_id::of(0));
  auto request = ask({5, 6, 7}, 12);
  request.deadline = std::chrono::steady_clock::now() + 300ms;
  const auto said = run(request);
  ASSERT_TRUE(said.failure);
  EXPECT_TRUE(said.failure->code == errc::timeout || said.failure->code == errc::unavailable) << said.failure->message;
}

class pinning_engine : public engine_on {
 protected:
  pinning_engine() : engine_on("mixtral", true) {}

  // A text of which the last few steps are to be computed: it is pinned to the model of before.
  void begin(listener& to, degrade policy = degrade::wait) {
    experts_->allow(layers() + 1);
    auto request = ask({5, 6, 7}, 12);
    request.policy = policy;
    start(std::move(request), to);
    (void)experts_->asked(layers() + 2);  // its second step has asked for its second layer
  }
  [[nodiscard]] std::size_t layers() const { return plan_.layers().size(); }
  void go_on() { experts_->allow(~std::uint64_t{0}); }

  const model_change first_layer_{{8}, {9}, {layer_id::of(0)}};
};

TEST_F(pinning_engine, texts_ask_for_the_versions_that_they_began_with_and_share_what_is_the_same) {
  const auto whole = run(ask({5, 6, 7}, 12)).ids();
  const auto before = experts_->asked(0).size();
  listener old, fresh;
  experts_->allow(layers() + 1);
  start(ask({5, 6, 7}, 12), old);
  (void)experts_->asked(before + layers() + 2);
  engine_->change_model(first_layer_);
  start(ask({1, 2}, 12), fresh);
  go_on();
  EXPECT_EQ(old.wait().ids(), whole);
  EXPECT_THAT(fresh.wait().tokens, SizeIs(12));
  std::uint32_t of_old = 0, of_new = 0, together = 0;
  const auto asked = experts_->asked(before);
  for (auto at = asked.begin() + static_cast<std::ptrdiff_t>(before); at != asked.end(); ++at) {
    ASSERT_TRUE(at->versions_of);
    const bool is_changed = at->layer == layer_id::of(0);
    of_old += is_changed && at->versions_of->value == 0 ? at->rows : 0;
    of_new += is_changed && at->versions_of->value == 9 ? at->rows : 0;
    together += !is_changed && at->rows == 2 && at->versions_of->value == 9 ? 1 : 0;
  }
  EXPECT_EQ(of_old, 3U + 11U) << "the prompt, and each token but the last";
  EXPECT_EQ(of_new, 2U + 11U);
  EXPECT_GT(together, 0U) << "layers that did not change are asked once for both";
}

TEST_F(pinning_engine, says_which_maps_texts_still_go_by) {
  EXPECT_EQ(engine_->uses_since().value, 0U);
  listener old;
  begin(old);
  engine_->change_model(first_layer_);
  engine_->change_model({{9}, {10}, {}});  // only masks
  experts_->allow(2);
  (void)experts_->asked(layers() + 4);  // the engine has heard of the changes
  EXPECT_EQ(engine_->uses_since().value, 8U) << "the last map before the change";
  go_on();
  (void)old.wait();
  (void)run(ask({3}, 1));  // the engine has looked at what is left when this one is through
  EXPECT_EQ(engine_->uses_since().value, 9U);
}

TEST_F(pinning_engine, a_text_whose_versions_were_given_up_goes_on_with_the_served_ones_and_says_so) {
  listener old;
  begin(old);
  engine_->change_model(first_layer_);
  experts_->give_up({0});
  go_on();
  const auto said = old.wait();
  ASSERT_TRUE(said.end);
  ASSERT_THAT(said.tokens, SizeIs(12));
  EXPECT_EQ(said.tokens.front().flags, 0);
  EXPECT_EQ(said.tokens.back().flags, flag_refreshed);
  EXPECT_EQ(said.end->approximate_tokens, 11U);
  EXPECT_EQ(engine_->uses_since().value, 9U);
}

TEST_F(pinning_engine, a_text_that_is_to_fail_rather_than_change_does) {
  listener old;
  begin(old, degrade::fail);
  engine_->change_model(first_layer_);
  experts_->give_up({0});
  go_on();
  const auto said = old.wait();
  ASSERT_TRUE(said.failure);
  EXPECT_EQ(said.failure->code, errc::unavailable);
  EXPECT_THAT(said.failure->message, HasSubstr("that the text began with"));
}

TEST_F(engine, p13_a_cancelled_text_is_not_heard_of_again) {
  listener to;
  const auto number = start(ask({5, 6, 7}, 200), to);
  (void)to.wait(2);
  engine_->cancel(number);
  const auto said = run(ask({1, 2}, 3));  // the engine has seen the cancel when this one is through
  EXPECT_THAT(said.tokens, SizeIs(3));
  const auto heard = to.wait(2);
  EXPECT_FALSE(heard.end || heard.failure);
  EXPECT_LT(heard.tokens.size(), 200U);
}

TEST_F(engine, w15_what_does_not_fit_the_context_is_refused_with_the_numbers) {
  const auto said = run(ask(std::vector<token_number>(250, 3), 100));
  ASSERT_TRUE(said.failure);
  EXPECT_EQ(said.failure->code, errc::invalid_request);
  EXPECT_THAT(said.failure->message, AllOf(HasSubstr("250"), HasSubstr("100"), HasSubstr("256")));
}

TEST_F(engine, a_stopping_engine_refuses_and_ends_what_is_left) {
  listener to;
  start(ask({5, 6, 7}, 240), to);
  (void)to.wait(1);
  engine_->stop(0ms);
  const auto said = to.wait();
  ASSERT_TRUE(said.failure);
  EXPECT_EQ(said.failure->code, errc::unavailable);
  auto refused = engine_->generate({ask({1}, 1), [](const generation_event&) {}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::unavailable);
}

}  // namespace
}  // namespace troupe::router
