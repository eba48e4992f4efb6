#include "client/cpp/token_stream.hpp"

#include <fmt/format.h>

#include <utility>

#include "proto/client_router.pb.h"

namespace troupe::client {
namespace {

void fill_prompt(proto::GenerateRequest& body, const prompt& asked) {
  if (const auto* text = std::get_if<std::string>(&asked.given())) {
    body.set_text(*text);
  } else if (const auto* tokens = std::get_if<token_ids>(&asked.given())) {
    body.mutable_tokens()->mutable_ids()->Add(tokens->begin(), tokens->end());
  } else {
    body.set_messages_json(std::get<chat_messages>(asked.given()).json);
  }
}

void fill_sampling(proto::Sampling& to, const generate_options& from, std::uint64_t seed) {
  if (from.temperature) to.set_temperature(*from.temperature);
  if (from.top_k) to.set_top_k(*from.top_k);
  if (from.top_p) to.set_top_p(*from.top_p);
  if (from.min_p) to.set_min_p(*from.min_p);
  if (from.repetition_penalty) to.set_repetition_penalty(*from.repetition_penalty);
  if (from.presence_penalty) to.set_presence_penalty(*from.presence_penalty);
  if (from.frequency_penalty) to.set_frequency_penalty(*from.frequency_penalty);
  for (const auto& [id, bias] : from.logit_bias) (*to.mutable_logit_bias())[id] = bias;
  to.set_seed(seed);
}

token read(const proto::GeneratedToken& from) {
  token to;
  to.id = from.id();
  to.position = from.position();
  to.text = from.text();
  if (from.has_logprob()) to.logprob = from.logprob();
  for (const auto& one : from.top()) to.top.push_back({one.id(), one.logprob(), one.text()});
  to.flags = static_cast<std::uint8_t>(from.flags());
  to.inexact_layers.assign(from.inexact_layers().begin(), from.inexact_layers().end());
  return to;
}

}  // namespace

token_stream::token_stream(const prompt& asked, const generate_options& options, std::uint64_t seed)
    : envelope_(std::make_unique<proto::ClientToRouter>()), fails_at_once_(options.policy == degrade::fail) {
  summary_.seed = options.seed.value_or(seed);
  auto& body = *envelope_->mutable_generate();
  fill_prompt(body, asked);
  fill_sampling(*body.mutable_sampling(), options, summary_.seed);
  if (options.max_tokens) body.set_max_tokens(*options.max_tokens);
  body.mutable_stop()->Add(options.stop.begin(), options.stop.end());
  body.mutable_stop_token_ids()->Add(options.stop_token_ids.begin(), options.stop_token_ids.end());
  body.set_ignore_eos(options.ignore_eos);
  body.set_logprobs(options.logprobs);
  body.set_top_logprobs(options.top_logprobs);
  body.set_skip_special_tokens(options.skip_special_tokens);
  body.set_add_special_tokens(options.add_special_tokens);
  body.set_degrade(static_cast<proto::Degrade>(options.policy));
}

token_stream::~token_stream() = default;

proto::ClientToRouter& token_stream::request(std::uint64_t request_id, const std::string& client_id,
                                             std::uint64_t timeout_ms) {
  auto& body = *envelope_->mutable_generate();
  body.set_request_id(request_id);
  body.set_client_id(client_id);
  body.set_timeout_ms(timeout_ms);
  body.mutable_resumed()->Assign(received_.begin(), received_.end());
  return *envelope_;
}

result<std::vector<token>> token_stream::absorb(const proto::GenerateEvent& event) {
  if (event.has_accepted()) {
    is_accepted_ = true;
    summary_.prompt_tokens = event.accepted().prompt_tokens();
    max_tokens_ = event.accepted().max_tokens();
  }
  std::vector<token> tokens;
  for (const auto& from : event.tokens()) {
    if (from.position() > received_.size()) {
      return fail(errc::corrupt,
                  fmt::format("token {} of the stream is missing, {} came", received_.size(), from.position()));
    }
    if (from.position() < received_.size()) continue;  // it has come already
    if (held_) tokens.push_back(*std::exchange(held_, std::nullopt));
    received_.push_back(from.id());
    tokens.push_back(read(from));
  }
  if (event.has_end()) {
    close(event.end(), tokens);
  } else if (!tokens.empty() && received_.size() == max_tokens_) {
    held_ = std::move(tokens.back());  // it is the last one: its reason comes next
    tokens.pop_back();
  }
  return tokens;
}

bool token_stream::goes_on(const proto::Failure& failure) const {
  if (failure.elsewhere()) return true;
  // With `fail` the caller wants to know when an expert is missing, wherever it is asked for.
  if (failure.error().code() == proto::UNAVAILABLE) return !fails_at_once_;
  return failure.error().code() == proto::OVERLOADED && is_accepted_;
}

void token_stream::close(const proto::GenerateEnd& end, std::vector<token>& tokens) {
  if (held_) tokens.push_back(*std::exchange(held_, std::nullopt));
  summary_.reason = end.reason() == proto::FINISH_LENGTH ? finish_reason::length : finish_reason::stop;
  if (end.has_stop_match()) summary_.stop_match = end.stop_match();
  summary_.prompt_tokens = end.prompt_tokens();
  summary_.cached_tokens = end.cached_tokens();
  summary_.answer_tokens = end.answer_tokens();
  summary_.approximate_tokens = end.approximate_tokens();
  if (tokens.empty()) {
    if (end.text().empty() && !received_.empty()) return;
    tokens.emplace_back();
    tokens.back().position = static_cast<std::uint32_t>(received_.size());
  }
  tokens.back().text += end.text();
  tokens.back().reason = summary_.reason;
}

}  // namespace troupe::client
