#include "router_node/shell/client_streams.hpp"

#include <algorithm>
#include <mutex>
#include <type_traits>
#include <variant>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "proto/client_router.pb.h"
#include "router_node/core/generation/request_check.hpp"
#include "router_node/shell/generate_message.hpp"
#include "router_node/shell/router_metrics.hpp"

namespace troupe::router {

using std::chrono::steady_clock;

struct client_streams::stream {
  client_address to;
  client_request name;
  bool with_logprobs{};
  std::shared_ptr<const text_source> text;
  std::optional<std::uint64_t> job;  // of the engine; none while the prompt is read
  proto::GenerateEvent waiting;      // to be sent
  bool is_over{};                    // `waiting` has the end, or `failure` is it
  std::optional<error> failure;
  time_point told;                       // when the client heard last of it
  std::optional<time_point> full_since;  // the client's queue has no room
};

struct client_streams::started {
  stream_number stream{};
  generation_gateway* engine{};
  result<std::uint64_t> job;
  proto::GenerateAccepted accepted;
};

struct client_streams::news {
  stream_number stream{};
  generation_event event;
};

struct client_streams::tokenized {
  client_address to;
  std::uint64_t number{};
  result<proto::TokenizeReply> reply;
};

// What other threads have for the router's; wakes it once per batch.
struct client_streams::mailbox {
  using item = std::variant<started, news, tokenized>;

  explicit mailbox(std::function<void()> wake_router) : wake(std::move(wake_router)) {}

  void put(item what) {
    std::lock_guard lock(mutex);
    if (is_closed) return;
    const bool was_empty = items.empty();
    items.push_back(std::move(what));
    if (was_empty) wake();
  }

  [[nodiscard]] std::vector<item> take() {
    std::lock_guard lock(mutex);
    return std::exchange(items, {});
  }

  void close() {
    std::lock_guard lock(mutex);
    is_closed = true;
  }

  std::function<void()> wake;
  std::mutex mutex;
  std::vector<item> items;
  bool is_closed{};
};

namespace {

// A client that reads nothing for this long has no use for its streams; clients wait as long for a word of theirs.
constexpr auto unread_max = 10 * limits::stream_alive_interval;
// How soon a full queue is tried again.
constexpr std::chrono::milliseconds full_pause{20};

// On the work queue's thread: tokens, checks, engine.
result<std::uint64_t> start(const text_source& text, asked_generation asked, proto::GenerateAccepted& accepted,
                            std::function<void(generation_event)> on_event) {
  auto& request = asked.request;
  // A client that has given up by now is not worth the work (faults.md O10).
  if (steady_clock::now() >= request.deadline) {
    return fail(errc::timeout, "the deadline passed before the prompt was read; allow more time");
  }
  auto prompt = tokens_of(asked.prompt, text);
  if (!prompt) return fail(prompt.error());
  request.prompt = std::move(*prompt);
  const auto& model = text.engine->limits();
  // Where there is no room at all, the check says so of the prompt.
  request.max_tokens = asked.max_tokens.value_or(std::max(room_for_answer(request.prompt.size(), model), 1U));
  if (auto fine = check(request, model); !fine) return fail(fine.error());
  accepted.set_prompt_tokens(static_cast<std::uint32_t>(request.prompt.size()));
  accepted.set_seed(request.sampling.seed);
  accepted.set_max_tokens(request.max_tokens);
  return text.engine->generate({std::move(request), std::move(on_event)});
}

result<proto::TokenizeReply> tokenized_reply(const prompt_source& source, const text_source& text) {
  proto::TokenizeReply reply;
  if (const auto* ids = std::get_if<std::vector<token_number>>(&source)) {
    if (!text.decode) return fail(errc::invalid_request, "tokens: this model has no tokenizer");
    const auto size = text.engine->limits().vocabulary;
    const auto bad = std::ranges::find_if(*ids, [&](token_number id) { return id >= size; });
    if (bad != ids->end()) {
      return fail(errc::invalid_request,
                  fmt::format("tokens[{}]: no token {}; this model's are 0 to {}", bad - ids->begin(), *bad, size - 1));
    }
    reply.set_text(text.decode(*ids, false));
    return reply;
  }
  auto tokens = tokens_of(source, text);
  if (!tokens) return fail(tokens.error());
  reply.mutable_tokens()->Add(tokens->begin(), tokens->end());
  return reply;
}

}  // namespace

client_streams::client_streams(client_door& door, router_metrics& metrics, std::uint64_t seed,
                               std::function<void()> wake)
    : door_(door),
      metrics_(metrics),
      random_(seed),
      mailbox_(std::make_shared<mailbox>(std::move(wake))),
      text_(fail(errc::unavailable, "this router does not generate text yet; retry later, or at another router")) {}

client_streams::~client_streams() {
  mailbox_->close();
  for (const auto& [number, s] : streams_) {
    if (s->job) s->text->engine->cancel(*s->job);
  }
}

void client_streams::use(text_or_reason text) { text_ = std::move(text); }

// -- requests -----------------------------------------------------------------------------------------------------

void client_streams::generate(const client_address& to, const client_request& name, std::string user,
                              const proto::GenerateRequest& request, time_point now) {
  if (!text_) return refuse(to, name.number, text_.error());
  if (names_.contains({name.client, name.number})) {
    return door_.send_failure(to, name.number,
                              {errc::in_progress, fmt::format("stream {} runs already; cancel it first", name.number)});
  }
  if (streams_.size() >= limits::client_streams_max) {
    return refuse(to, name.number, {errc::overloaded, "too many streams at this router; retry later"});
  }
  auto asked = read(request);
  if (!asked) return refuse(to, name.number, asked.error());
  asked->request.client = std::move(user);
  asked->request.arrived = now;
  asked->request.deadline = now + generation_timeout(asked->timeout_ms);
  asked->request.sampling.seed = asked->seed ? *asked->seed : random_();
  const auto number = ++last_number_;
  const auto bytes = bytes_of(asked->prompt);
  const bool with_logprobs = asked->request.wants_logprobs;
  auto work = [text = *text_, mail = mailbox_, number, asked = std::move(*asked)]() mutable {
    started what{.stream = number, .engine = text->engine, .job = 0, .accepted = {}};
    what.job = start(*text, std::move(asked), what.accepted, [mail, number](generation_event event) {
      mail->put(news{number, std::move(event)});
    });
    mail->put(std::move(what));
  };
  if (auto put = queue_.put(bytes, std::move(work)); !put) return refuse(to, name.number, put.error());
  auto made = std::make_unique<stream>();
  made->to = to;
  made->name = name;
  made->with_logprobs = with_logprobs;
  made->text = *text_;
  made->told = now;
  streams_.emplace(number, std::move(made));
  names_.emplace(std::pair(name.client, name.number), number);
  next_alive_ = std::min(next_alive_, now + limits::stream_alive_interval);
}

void client_streams::cancel(const client_request& name) {
  const auto at = names_.find({name.client, name.number});
  if (at != names_.end()) abandon(at->second);
}

void client_streams::tokenize(const client_address& to, const proto::TokenizeRequest& request) {
  const auto number = request.request_id();
  if (!text_) return refuse(to, number, text_.error());
  auto source = read(request);
  if (!source) return refuse(to, number, source.error());
  const auto bytes = bytes_of(*source);
  auto work = [text = *text_, mail = mailbox_, to, number, source = std::move(*source)] {
    mail->put(tokenized{to, number, tokenized_reply(source, *text)});
  };
  if (auto put = queue_.put(bytes, std::move(work)); !put) refuse(to, number, put.error());
}

void client_streams::refuse(const client_address& to, std::uint64_t number, const error& reason) {
  metrics_.on_refused(reason.code);
  door_.send_failure(to, number, reason);
}

// -- what the other threads say -----------------------------------------------------------------------------------

void client_streams::handle(time_point now) {
  for (auto& item : mailbox_->take()) {
    std::visit([&](auto& what) { obey(std::move(what), now); }, item);
  }
  say_alive(now);
  flush(now);
  if (!changed_.empty()) next_alive_ = std::min<time_point>(next_alive_, now + full_pause);
}

void client_streams::obey(started&& what, time_point) {
  const auto at = streams_.find(what.stream);
  if (at == streams_.end()) {
    // Its client went away while the prompt was read.
    if (what.job) what.engine->cancel(*what.job);
    return;
  }
  auto& s = *at->second;
  if (!what.job) {
    refuse(s.to, s.name.number, what.job.error());
    return erase(what.stream);
  }
  s.job = *what.job;
  *s.waiting.mutable_accepted() = std::move(what.accepted);
  changed_.push_back(what.stream);
}

void client_streams::obey(news&& what, time_point) {
  const auto at = streams_.find(what.stream);
  if (at == streams_.end()) return;
  auto& s = *at->second;
  if (const auto* token = std::get_if<token_event>(&what.event)) {
    write(s.waiting, *token, s.with_logprobs, *s.text);
    // Clients are told of the last token and its reason at once.
    if (token->is_last) return;
  } else if (const auto* end = std::get_if<generation_end>(&what.event)) {
    write(s.waiting, *end);
    s.is_over = true;
  } else if (auto* reason = std::get_if<error>(&what.event)) {
    s.failure = std::move(*reason);
    s.is_over = true;
  }
  // Events may be faster than the word that they have begun, which goes first.
  if (s.job) changed_.push_back(what.stream);
}

void client_streams::obey(tokenized&& what, time_point) {
  if (!what.reply) return refuse(what.to, what.number, what.reply.error());
  proto::RouterToClient envelope;
  what.reply->set_request_id(what.number);
  *envelope.mutable_tokenize() = std::move(*what.reply);
  if (auto sent = door_.send(what.to, envelope); !sent) {
    spdlog::debug("tokens for a client dropped: {}", sent.error().message);
  }
}

// -- to the clients -----------------------------------------------------------------------------------------------

void client_streams::say_alive(time_point now) {
  if (now < next_alive_) return;
  next_alive_ = time_point::max();
  for (const auto& [number, s] : streams_) {
    if (s->told + limits::stream_alive_interval <= now) {
      changed_.push_back(number);
      s->told = now;
    }
    next_alive_ = std::min(next_alive_, s->told + limits::stream_alive_interval);
  }
}

void client_streams::flush(time_point now) {
  if (changed_.empty()) return;
  std::ranges::sort(changed_);
  const auto repeated = std::ranges::unique(changed_);
  changed_.erase(repeated.begin(), repeated.end());
  std::map<client_address, std::vector<stream_number>> by_client;
  for (const auto number : std::exchange(changed_, {})) {
    if (const auto at = streams_.find(number); at != streams_.end()) by_client[at->second->to].push_back(number);
  }
  for (const auto& [to, numbers] : by_client) send_events(to, numbers, now);
}

void client_streams::send_events(const client_address& to, const std::vector<stream_number>& numbers, time_point now) {
  proto::RouterToClient envelope;
  std::vector<stream_number> in_message;
  std::size_t bytes = 0;
  for (const auto number : numbers) {
    auto& s = *streams_.at(number);
    auto& event = *envelope.mutable_generate()->add_events();
    if (s.job) event.Swap(&s.waiting);
    event.set_request_id(s.name.number);
    s.told = now;
    bytes += event.ByteSizeLong();
    in_message.push_back(number);
    if (bytes < limits::stream_message_bytes_max && number != numbers.back()) continue;
    const auto sent = door_.send(to, envelope);
    conclude(in_message, *envelope.mutable_generate(), sent, now);
    envelope.Clear();
    in_message.clear();
    bytes = 0;
  }
}

void client_streams::conclude(const std::vector<stream_number>& numbers, proto::GenerateEvents& events,
                              const result<void>& sent, time_point now) {
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto number = numbers[i];
    auto& s = *streams_.at(number);
    if (!sent) {
      const bool is_full = sent.error().code == errc::overloaded;
      if (is_full && keep(s, *events.mutable_events(static_cast<int>(i)), now)) {
        changed_.push_back(number);
      } else {
        abandon(number);
      }
      continue;
    }
    s.full_since.reset();
    if (s.is_over) {
      metrics_.on_stream_end(s.failure ? std::optional(s.failure->code) : std::nullopt);
      if (s.failure) door_.send_failure(s.to, s.name.number, *s.failure);
      erase(number);
    }
  }
}

bool client_streams::keep(stream& s, proto::GenerateEvent& event, time_point now) {
  if (s.job) s.waiting.Swap(&event);
  if (!s.full_since) s.full_since = now;
  return now < *s.full_since + unread_max && s.waiting.ByteSizeLong() < limits::stream_message_bytes_max;
}

void client_streams::abandon(stream_number number) {
  const auto& s = *streams_.at(number);
  if (s.job && !s.is_over) s.text->engine->cancel(*s.job);
  metrics_.on_aborted();
  erase(number);
}

void client_streams::erase(stream_number number) {
  const auto at = streams_.find(number);
  names_.erase({at->second->name.client, at->second->name.number});
  streams_.erase(at);
}

void client_streams::abort_all(const error& reason) {
  for (const auto& [number, s] : streams_) {
    if (s->job && !s->is_over) s->text->engine->cancel(*s->job);
    metrics_.on_stream_end(reason.code);
    door_.send_failure(s->to, s->name.number, reason);
  }
  streams_.clear();
  names_.clear();
}

}  // namespace troupe::router
