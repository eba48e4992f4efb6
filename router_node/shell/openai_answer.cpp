#include "router_node/shell/openai_answer.hpp"

#include <utility>

#include <nlohmann/json.hpp>

#include "common/http/errors.hpp"

namespace troupe::router {

using std::chrono::steady_clock;

http::response to_response(const request_refusal& refusal) {
  auto answer = http::to_response(refusal.reason, refusal.param);
  if (!refusal.code.empty()) answer.body = error_object(refusal).dump();
  return answer;
}

text_answer::text_answer(answer_environment environment, text_request request, std::shared_ptr<http::exchange> exchange,
                         std::string id, std::int64_t created, std::shared_ptr<void> share)
    : environment_(std::move(environment)),
      request_(std::move(request)),
      format_(*environment_.model, request_, std::move(id), created),
      exchange_(std::move(exchange)),
      share_(std::move(share)) {
  for (std::uint32_t prompt = 0; prompt < request_.prompts.size(); ++prompt) {
    for (std::uint32_t i = 0; i < request_.choices; ++i) {
      choices_.push_back({.index = static_cast<std::uint32_t>(choices_.size()), .prompt = prompt});
    }
  }
}

void text_answer::start() {
  if (request_.settings.deadline <= steady_clock::now()) {  // faults.md O10: before any work
    const std::lock_guard lock(mutex_);
    return fail({errc::timeout, "the request's time was over before its work began; allow more time (timeout_ms)"});
  }
  exchange_->on_cancel([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->cancel();
  });
  if (request_.streams) {
    const std::lock_guard lock(mutex_);
    stream_ = exchange_->begin_stream({.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}},
                                       .ping = ": ping\n\n",
                                       .ping_interval = environment_.ping_interval});
  }
  auto jobs = jobs_of(request_);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (!hand_over(i, std::move(jobs[i]))) return cancel_jobs();
  }
}

// False when nothing more is to be handed over.
bool text_answer::hand_over(std::size_t choice, generation_request job) {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return false;
  }
  auto number =
      environment_.gateway->generate({std::move(job), [self = shared_from_this(), choice](generation_event event) {
                                        self->on_event(choice, std::move(event));
                                      }});
  const std::lock_guard lock(mutex_);
  if (number) numbers_.push_back(*number);
  if (!number && !over_) fail(number.error());
  return !over_ || ended_ == choices_.size();
}

// The client has gone.
void text_answer::cancel() {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    end(text_outcome::aborted);
  }
  cancel_jobs();
}

void text_answer::cancel_jobs() {
  std::vector<std::uint64_t> numbers;
  {
    const std::lock_guard lock(mutex_);
    numbers = std::exchange(numbers_, {});
  }
  for (const auto number : numbers) environment_.gateway->cancel(number);
}

void text_answer::on_event(std::size_t choice, generation_event event) {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    if (auto* reason = std::get_if<error>(&event)) {
      fail(*reason);
    } else if (auto* before = std::get_if<prompt_logprobs>(&event)) {
      take(choices_[choice], std::move(*before));
    } else if (auto* token = std::get_if<token_event>(&event)) {
      take(choices_[choice], std::move(*token));
    } else {
      take(choices_[choice], std::move(std::get<generation_end>(event)));
    }
    if (!over_ || ended_ == choices_.size()) return;
  }
  cancel_jobs();  // one choice has failed: the others are of no use
}

void text_answer::take(text_choice& choice, prompt_logprobs event) { choice.before = std::move(event); }

void text_answer::take(text_choice& choice, token_event event) {
  if (request_.hides_answer) return;
  if (!request_.streams) {
    choice.text += event.text;
    if (request_.settings.wants_logprobs || request_.returns_token_ids || event.flags != 0) {
      choice.tokens.push_back(std::move(event));
    }
    return;
  }
  std::string events;
  if (!choice.began) events = format_.opening(choice);
  events += format_.token(choice, event);
  send(events);
}

void text_answer::take(text_choice& choice, generation_end event) {
  if (request_.hides_answer) {
    event.answer_tokens = 0;
    event.text.clear();
  }
  ++ended_;
  if (request_.streams) {
    std::string events;
    if (!choice.began) events = format_.opening(choice);
    events += format_.ending(choice, event);
    send(events);
  } else {
    choice.text += event.text;
  }
  choice.end = std::move(event);
  if (ended_ == choices_.size() && !over_) complete();
}

// An error before the first byte has a status; later it is the last event of the stream, and nothing follows it.
void text_answer::fail(const error& reason) {
  share_.reset();  // before the client can ask again
  const request_refusal refusal{reason, {}, {}};
  if (!stream_) {
    exchange_->reply(to_response(refusal));
  } else if (!stream_->reply_instead(to_response(refusal))) {
    stream_->write(answer_format::failure(refusal));
    stream_->finish();
  }
  const bool had_no_place = reason.code == errc::overloaded || reason.code == errc::unavailable;
  end(reason.code == errc::timeout       ? text_outcome::expired
      : had_no_place && numbers_.empty() ? text_outcome::rejected
                                         : text_outcome::error);
}

void text_answer::send(std::string_view events) {
  if (events.empty() || over_) return;
  // Cut off, as a client that has gone: what the engine says from now on is of no use, the end included.
  if (!stream_->write(events)) end(text_outcome::aborted);
}

void text_answer::complete() {
  share_.reset();  // before the client can ask again
  if (request_.streams) {
    std::string events;
    if (request_.includes_usage) events = format_.usage(usage_of(choices_));
    events += answer_format::done();
    send(events);
    if (over_) return;
    stream_->finish();
  } else {
    // A large body is put together on the server's thread, not on the engine's.
    exchange_->reply_with(
        [self = shared_from_this()] { return http::response{.body = self->format_.body(self->choices_)}; });
  }
  end(text_outcome::ok);
}

void text_answer::end(text_outcome outcome) {
  over_ = true;
  share_.reset();
  if (environment_.on_outcome) environment_.on_outcome(outcome);
}

}  // namespace troupe::router
