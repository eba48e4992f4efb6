#include "tests/router_node/fake_generation.hpp"

#include <cstdlib>
#include <utility>

#include "router_node/core/generation/stop_matcher.hpp"

namespace troupe::router::testing {
namespace {

constexpr const char* sentence =
    "The hills were green, 日本 and 😀; he said nothing. Then it rained: one, two, three (and four) times.";

// The number behind a word of the prompt; nullopt when the word is not there.
std::optional<std::uint32_t> directive(const std::string& prompt, const std::string& word) {
  const auto at = prompt.find(word);
  if (at == std::string::npos) return std::nullopt;
  return static_cast<std::uint32_t>(std::strtoul(prompt.c_str() + at + word.size(), nullptr, 10));
}

}  // namespace

struct fake_generation::answer {
  generation_job job;
  std::string prompt;
  std::optional<model::stream_decoder> decoder;
  stop_matcher stops;
  std::uint32_t begin{};  // in the sentence
  std::uint32_t position{};
  std::uint32_t approximate{};
  bool told_prompt{};

  answer(generation_job j, const model::tokenizer* tokenizer, std::size_t places)
      : job(std::move(j)), stops(job.request.stop) {
    const auto& asked = job.request;
    if (tokenizer != nullptr) {
      prompt = tokenizer->decode(asked.prompt, true);
      decoder.emplace(*tokenizer, asked.skips_special);
    }
    if (asked.sampling.temperature > 0) begin = static_cast<std::uint32_t>(asked.sampling.seed % places);
  }

  [[nodiscard]] std::vector<token_logprob> top(token_number id) const {
    std::vector<token_logprob> out;
    for (std::uint32_t i = 0; i < job.request.top_logprobs; ++i) {
      out.push_back({i == 0 ? id : i, -0.25F * static_cast<float>(i + 1)});
    }
    return out;
  }

  void tell_prompt() {
    told_prompt = true;
    if (!job.request.wants_prompt_logprobs) return;
    prompt_logprobs event;
    for (const auto id : job.request.prompt) {
      auto entry = top(id);
      entry.insert(entry.begin(), {id, -0.5F});
      event.tokens.push_back(event.tokens.empty() ? std::vector<token_logprob>{} : std::move(entry));
    }
    job.on_event(std::move(event));
  }

  void end(finish_reason reason, std::string text, std::optional<std::string> match = {}) {
    job.on_event(generation_end{.reason = reason,
                                .text = std::move(text),
                                .stop_match = std::move(match),
                                .prompt_tokens = static_cast<std::uint32_t>(job.request.prompt.size()),
                                .cached_tokens = 0,
                                .answer_tokens = position,
                                .approximate_tokens = approximate});
  }
};

fake_generation::fake_generation(const model::tokenizer* tokenizer, generation_limits limits)
    : tokenizer_(tokenizer), limits_(limits) {
  sentence_ =
      tokenizer == nullptr ? std::vector<token_number>{1, 2, 3, 4, 5, 6, 7, 8} : tokenizer->encode(sentence, false);
  thread_ = std::thread([this] { run(); });
}

fake_generation::~fake_generation() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

result<std::uint64_t> fake_generation::generate(generation_job job) {
  auto made = std::make_shared<answer>(std::move(job), tokenizer_, sentence_.size());
  if (directive(made->prompt, "@refuse")) return fail(errc::overloaded, "the line is full; retry later");
  if (directive(made->prompt, "@gone")) return fail(errc::unavailable, "the router is stopping; ask another one");
  const std::lock_guard lock(mutex_);
  last_ = made->job.request;
  ++counts_.accepted;
  answers_.emplace(++numbered_, std::move(made));
  wake_.notify_all();
  return numbered_;
}

void fake_generation::cancel(std::uint64_t number) {
  {
    const std::lock_guard lock(mutex_);
    if (!answers_.contains(number)) return;
    ++counts_.cancelled;  // before it is gone: whoever sees that nothing runs sees the count
  }
  forget(number);
}

bool fake_generation::is_running(std::uint64_t number) const {
  const std::lock_guard lock(mutex_);
  return answers_.contains(number);
}

void fake_generation::forget(std::uint64_t number) {
  std::shared_ptr<answer> dropped;  // its callbacks are destroyed outside of the lock
  const std::lock_guard lock(mutex_);
  const auto at = answers_.find(number);
  if (at == answers_.end()) return;
  dropped = std::move(at->second);
  answers_.erase(at);
}

void fake_generation::run() {
  std::unique_lock lock(mutex_);
  std::uint64_t seen = 0;
  for (bool moved = true; !stopping_;) {
    if (!moved) wake_.wait(lock, [&] { return stopping_ || numbered_ != seen; });
    moved = false;
    seen = numbered_;
    const auto now = answers_;
    lock.unlock();
    for (const auto& [number, one] : now) moved = (is_running(number) && step(number, *one)) || moved;
    lock.lock();
  }
}

// One token; false when the answer holds.
bool fake_generation::step(std::uint64_t number, answer& one) {
  if (!one.told_prompt) one.tell_prompt();
  const auto at = [&one](const char* word) { return directive(one.prompt, word) == one.position; };
  if (at("@hold")) return false;
  for (const auto& [word, code] :
       {std::pair{"@unavailable", errc::unavailable}, std::pair{"@timeout", errc::timeout}}) {
    if (!at(word)) continue;
    forget(number);
    one.job.on_event(error{code, "the experts did not answer"});
    return true;
  }
  const auto& asked = one.job.request;
  const auto id = sentence_[(one.begin + one.position) % sentence_.size()];
  token_event event;
  event.id = id;
  event.position = one.position;
  event.logprob = -0.25F;
  event.top = one.top(id);
  if (at("@inexact")) {
    event.flags = flag_substituted;
    event.inexact_layers = {0, 2};
    ++one.approximate;
  }
  auto piece = one.stops.push(one.decoder ? one.decoder->push(id) : "");
  event.text = directive(one.prompt, "@flood") ? std::string(64 * 1024, 'x') : std::move(piece.text);
  ++one.position;
  one.job.on_event(std::move(event));
  const bool is_out = one.position >= asked.max_tokens;
  const bool is_eos = !asked.ignore_eos && one.position == sentence_.size() && !directive(one.prompt, "@flood");
  if (!piece.match && !is_out && !is_eos) return true;
  auto rest = piece.match ? stop_matcher::piece{} : one.stops.push(one.decoder ? one.decoder->finish() : "");
  if (!piece.match && !rest.match) rest.text += one.stops.finish();
  const bool is_stop = piece.match || rest.match || (is_eos && !is_out);
  forget(number);
  one.end(is_stop ? finish_reason::stop : finish_reason::length, std::move(rest.text),
          piece.match ? piece.match : rest.match);
  return true;
}

fake_counts fake_generation::counts() const {
  const std::lock_guard lock(mutex_);
  auto out = counts_;
  out.running = answers_.size();
  return out;
}

generation_request fake_generation::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

}  // namespace troupe::router::testing
