#include "router_node/shell/generate_message.hpp"

#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "proto/client_router.pb.h"

namespace troupe::router {
namespace {

template <class... Cases>
struct overloaded_cases : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
overloaded_cases(Cases...) -> overloaded_cases<Cases...>;

result<void> check_bytes(std::string_view field, std::size_t bytes) {
  if (bytes <= limits::prompt_bytes_max) return {};
  return fail(errc::too_large, fmt::format("{}: {} bytes, at most {}", field, bytes, limits::prompt_bytes_max));
}

template <class Ids>
std::vector<token_number> tokens_from(const Ids& ids) {
  return {ids.begin(), ids.end()};
}

// `Request` has a oneof of text, tokens and messages_json; `missing` is what to say when none is there.
template <class Request>
result<prompt_source> read_prompt(const Request& request, bool add_special, const char* missing) {
  if (request.has_tokens()) return tokens_from(request.tokens().ids());
  if (request.has_text()) {
    if (auto fine = check_bytes("text", request.text().size()); !fine) return fail(fine.error());
    return text_prompt{request.text(), add_special};
  }
  if (request.has_messages_json()) {
    if (auto fine = check_bytes("messages_json", request.messages_json().size()); !fine) return fail(fine.error());
    return chat_prompt{request.messages_json()};
  }
  return fail(errc::invalid_request, missing);
}

sampling_settings read_sampling(const proto::Sampling& from) {
  sampling_settings to;
  if (from.has_temperature()) to.temperature = from.temperature();
  if (from.has_top_k()) to.top_k = from.top_k();
  if (from.has_top_p()) to.top_p = from.top_p();
  if (from.has_min_p()) to.min_p = from.min_p();
  if (from.has_repetition_penalty()) to.repetition_penalty = from.repetition_penalty();
  if (from.has_presence_penalty()) to.presence_penalty = from.presence_penalty();
  if (from.has_frequency_penalty()) to.frequency_penalty = from.frequency_penalty();
  for (const auto& [id, bias] : from.logit_bias()) to.logit_bias.emplace(id, bias);
  return to;
}

}  // namespace

degrade to_degrade(proto::Degrade value) {
  switch (value) {
    case proto::SUBSTITUTE:
      return degrade::substitute;
    case proto::RENORMALISE:
      return degrade::renormalise;
    case proto::FAIL:
      return degrade::fail;
    default:  // WAIT and unspecified; the parser has refused unknown numbers
      return degrade::wait;
  }
}

std::size_t bytes_of(const prompt_source& source) {
  return std::visit(overloaded_cases{[](const text_prompt& text) { return text.text.size(); },
                                     [](const chat_prompt& chat) { return chat.messages_json.size(); },
                                     [](const auto& tokens) { return tokens.size() * sizeof(token_number); }},
                    source);
}

result<std::vector<token_number>> tokens_of(const prompt_source& source, const text_source& text) {
  using tokens = result<std::vector<token_number>>;
  const auto no_tokenizer = [] {
    return fail(errc::invalid_request,
                "prompt: this model has no tokenizer; send token ids, or put tokenizer.json into its folder");
  };
  const auto from_text = [&](const text_prompt& prompt) -> tokens {
    if (!text.encode) return no_tokenizer();
    return text.encode(prompt.text, prompt.add_special);
  };
  const auto from_chat = [&](const chat_prompt& prompt) -> tokens {
    if (!text.encode) return no_tokenizer();
    if (!text.render) {
      return fail(errc::invalid_request,
                  "messages: this model has no chat template; send text, or put chat_template.jinja into its folder");
    }
    auto rendered = text.render(prompt.messages_json);
    if (!rendered) return fail(rendered.error());
    // The template has put the special tokens in.
    return text.encode(*rendered, false);
  };
  return std::visit(overloaded_cases{from_text, from_chat, [](const auto& ids) -> tokens { return ids; }}, source);
}

result<asked_generation> read(const proto::GenerateRequest& request) {
  auto prompt = read_prompt(request, !request.has_add_special_tokens() || request.add_special_tokens(),
                            "prompt: not set; send text, tokens or messages_json");
  if (!prompt) return fail(prompt.error());
  asked_generation asked{.prompt = std::move(*prompt), .request = {}, .max_tokens = {}, .seed = {}};
  auto& to = asked.request;
  to.resumed = tokens_from(request.resumed());
  to.sampling = read_sampling(request.sampling());
  to.stop.assign(request.stop().begin(), request.stop().end());
  to.stop_token_ids = tokens_from(request.stop_token_ids());
  to.ignore_eos = request.ignore_eos();
  to.top_logprobs = request.top_logprobs();
  to.wants_logprobs = request.logprobs() || request.top_logprobs() > 0;
  to.skips_special = !request.has_skip_special_tokens() || request.skip_special_tokens();
  to.policy = to_degrade(request.degrade());
  if (request.has_max_tokens()) asked.max_tokens = request.max_tokens();
  if (request.sampling().has_seed()) asked.seed = request.sampling().seed();
  asked.timeout_ms = request.timeout_ms();
  return asked;
}

result<prompt_source> read(const proto::TokenizeRequest& request) {
  return read_prompt(request, request.add_special_tokens(), "input: not set; send text, tokens or messages_json");
}

void write(proto::GenerateEvent& event, const token_event& token, bool with_logprob, const text_source& text) {
  auto& to = *event.add_tokens();
  to.set_id(token.id);
  to.set_position(token.position);
  to.set_text(token.text);
  if (with_logprob) to.set_logprob(token.logprob);
  for (const auto& alternative : token.top) {
    auto& top = *to.add_top();
    top.set_id(alternative.id);
    top.set_logprob(alternative.logprob);
    if (text.text_of) top.set_text(text.text_of(alternative.id));
  }
  to.set_flags(token.flags);
  for (const auto layer : token.inexact_layers) to.add_inexact_layers(layer);
}

void write(proto::GenerateEvent& event, const generation_end& end) {
  auto& to = *event.mutable_end();
  to.set_reason(end.reason == finish_reason::length ? proto::FINISH_LENGTH : proto::FINISH_STOP);
  to.set_text(end.text);
  if (end.stop_match) to.set_stop_match(*end.stop_match);
  to.set_prompt_tokens(end.prompt_tokens);
  to.set_cached_tokens(end.cached_tokens);
  to.set_answer_tokens(end.answer_tokens);
  to.set_approximate_tokens(end.approximate_tokens);
}

}  // namespace troupe::router
