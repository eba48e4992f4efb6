#include "router_node/shell/openai_format.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/http/errors.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace troupe::router {
namespace {

using nlohmann::json;

std::string dumped(const json& v) { return v.dump(-1, ' ', false, json::error_handler_t::replace); }

// OpenAI's stand-in for "impossible", which JSON has no number for.
double finite(float logprob) { return std::isfinite(logprob) ? static_cast<double>(logprob) : -9999.0; }

std::size_t characters_of(std::string_view utf8) {
  return static_cast<std::size_t>(
      std::ranges::count_if(utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

const char* word_of(finish_reason reason) { return reason == finish_reason::stop ? "stop" : "length"; }

json exactness(const token_event& event) {
  return {{"exact", false},
          {"reason", (event.flags & flag_substituted) != 0    ? "substituted"
                     : (event.flags & flag_renormalised) != 0 ? "renormalised"
                                                              : "refreshed"},
          {"layers", event.inexact_layers}};
}

json usage_json(const text_usage& used) {
  return {{"prompt_tokens", used.prompt_tokens},
          {"completion_tokens", used.answer_tokens},
          {"total_tokens", used.prompt_tokens + used.answer_tokens},
          {"prompt_tokens_details", {{"cached_tokens", used.cached_tokens}}}};
}

std::string echo_of(const text_request& request, const served_model& model, std::uint32_t prompt) {
  const auto& echoed = request.prompts[prompt];
  if (!echoed.text.empty() || model.tokenizer == nullptr) return echoed.text;
  return model.tokenizer->decode(echoed.tokens, request.settings.skips_special);
}

}  // namespace

// What one event of a stream tells of one choice.
struct answer_format::piece {
  std::string text;
  bool has_role{};
  json logprobs;
  const generation_end* end{};
  std::vector<token_number> token_ids{};
  json more;  // "troupe"
};

text_usage usage_of(const std::vector<text_choice>& choices) {
  text_usage used;
  std::map<std::uint32_t, const generation_end*> prompts;
  for (const auto& choice : choices) {
    if (!choice.end) continue;
    used.answer_tokens += choice.end->answer_tokens;
    used.approximate_tokens += choice.end->approximate_tokens;
    prompts.emplace(choice.prompt, &*choice.end);
  }
  for (const auto& [prompt, end] : prompts) {
    used.prompt_tokens += end->prompt_tokens;
    used.cached_tokens += end->cached_tokens;
  }
  return used;
}

json error_object(const request_refusal& refusal) {
  auto body = json::parse(http::to_response(refusal.reason, refusal.param).body);
  if (!refusal.code.empty()) body["error"]["code"] = refusal.code;
  return body;
}

answer_format::answer_format(const served_model& model, const text_request& request, std::string id,
                             std::int64_t created)
    : model_(model), request_(request) {
  json head{{"id", std::move(id)}, {"created", created}, {"model", model.name}};
  if (!model.fingerprint.empty()) head["system_fingerprint"] = model.fingerprint;
  const auto with = [&head](const char* object) {
    head["object"] = object;
    auto text = dumped(head);
    text.back() = ',';
    return text;
  };
  head_ = with(request.is_chat ? "chat.completion.chunk" : "text_completion");
  whole_head_ = with(request.is_chat ? "chat.completion" : "text_completion");
}

// -- tokens as text -----------------------------------------------------------------------------------------------

// The text of a token; bytes that are no UTF-8 by themselves are written so that no two tokens look the same.
std::string answer_format::token_text(token_number id) const {
  if (model_.tokenizer == nullptr) return fmt::format("token_id:{}", id);
  auto bytes = model_.tokenizer->bytes_of(id);
  if (dumped(bytes) == json(bytes).dump(-1, ' ', false, json::error_handler_t::ignore)) return bytes;
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

json answer_format::listed(const token_logprob& entry) const {
  json out{{"token", token_text(entry.id)}, {"logprob", finite(entry.logprob)}, {"bytes", nullptr}};
  if (model_.tokenizer != nullptr) {
    const auto bytes = model_.tokenizer->bytes_of(entry.id);
    out["bytes"] = std::vector<std::uint8_t>(bytes.begin(), bytes.end());
  }
  return out;
}

json answer_format::chat_logprobs(const std::vector<const token_event*>& tokens) const {
  json content = json::array();
  for (const auto* one : tokens) {
    auto entry = listed({one->id, one->logprob});
    entry["top_logprobs"] = json::array();
    for (const auto& other : one->top) entry["top_logprobs"].push_back(listed(other));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

json answer_format::logprobs(text_choice& choice, const std::vector<const token_event*>& tokens,
                             const prompt_logprobs* before) const {
  if (!request_.settings.wants_logprobs) return nullptr;
  if (request_.is_chat) return chat_logprobs(tokens);
  json texts = json::array();
  json values = json::array();
  json tops = json::array();
  json offsets = json::array();
  const auto add = [&](token_number id, const std::vector<token_logprob>& best, const token_logprob* own) {
    auto text = token_text(id);
    offsets.push_back(choice.characters);
    choice.characters += characters_of(text);
    values.push_back(own == nullptr ? json() : json(finite(own->logprob)));
    json top = own == nullptr ? json() : json::object();
    if (own != nullptr) top[text] = finite(own->logprob);
    for (const auto& other : best) top[token_text(other.id)] = finite(other.logprob);
    tops.push_back(std::move(top));
    texts.push_back(std::move(text));
  };
  const auto& prompt = request_.prompts[choice.prompt].tokens;
  for (std::size_t i = 0; before != nullptr && i < std::min(prompt.size(), before->tokens.size()); ++i) {
    const auto& entry = before->tokens[i];  // the token itself first, then the best
    add(prompt[i], entry.empty() ? entry : std::vector<token_logprob>(entry.begin() + 1, entry.end()),
        entry.empty() ? nullptr : &entry.front());
  }
  for (const auto* one : tokens) {
    const token_logprob own{one->id, one->logprob};
    add(one->id, one->top, &own);
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

// -- streams ------------------------------------------------------------------------------------------------------

std::string answer_format::event(const text_choice& choice, const piece& what) const {
  json one{{"index", choice.index}, {"logprobs", what.logprobs}, {"finish_reason", nullptr}};
  if (request_.is_chat) {
    one["delta"] = json::object();
    if (what.has_role) one["delta"]["role"] = "assistant";
    if (what.has_role || what.end == nullptr || !what.text.empty()) one["delta"]["content"] = what.text;
  } else {
    one["text"] = what.text;
  }
  if (what.end != nullptr) {
    one["finish_reason"] = word_of(what.end->reason);
    one["stop_reason"] = what.end->stop_match ? json(*what.end->stop_match) : json();
  }
  if (request_.returns_token_ids) one["token_ids"] = what.token_ids;
  auto out = "data: " + head_ + "\"choices\":[" + dumped(one) + ']';
  if (request_.includes_usage) out += ",\"usage\":null";
  if (!what.more.is_null()) out += ",\"troupe\":" + dumped(what.more);
  return out + "}\n\n";
}

std::string answer_format::opening(text_choice& choice) const {
  choice.began = true;
  if (request_.is_chat) return event(choice, {.text = {}, .has_role = true, .logprobs = {}, .more = {}});
  if (!request_.echoes) return {};
  const auto* before = choice.before ? &*choice.before : nullptr;
  return event(
      choice, {.text = echo_of(request_, model_, choice.prompt), .logprobs = logprobs(choice, {}, before), .more = {}});
}

std::string answer_format::token(text_choice& choice, const token_event& token) const {
  const bool is_exact = token.flags == 0;
  if (token.text.empty() && is_exact && !request_.settings.wants_logprobs && !request_.returns_token_ids) return {};
  return event(choice, {.text = token.text,
                        .logprobs = logprobs(choice, {&token}, nullptr),
                        .token_ids = {token.id},
                        .more = is_exact ? json() : exactness(token)});
}

std::string answer_format::ending(text_choice& choice, const generation_end& end) const {
  return event(choice, {.text = request_.hides_answer ? "" : end.text, .logprobs = {}, .end = &end, .more = {}});
}

std::string answer_format::usage(const text_usage& used) const {
  return "data: " + head_ + "\"choices\":[],\"usage\":" + dumped(usage_json(used)) +
         ",\"troupe\":" + dumped({{"approximate_tokens", used.approximate_tokens}}) + "}\n\n";
}

std::string answer_format::failure(const request_refusal& refusal) {
  return "data: " + dumped(error_object(refusal)) + "\n\n";
}

// -- whole answers ------------------------------------------------------------------------------------------------

json answer_format::choice_body(text_choice& choice) const {
  std::vector<const token_event*> tokens;
  for (const auto& one : choice.tokens) tokens.push_back(&one);
  json one{{"index", choice.index}};
  one["logprobs"] = logprobs(choice, tokens, choice.before ? &*choice.before : nullptr);
  one["finish_reason"] = word_of(choice.end->reason);
  one["stop_reason"] = choice.end->stop_match ? json(*choice.end->stop_match) : json();
  if (request_.is_chat) {
    one["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  } else {
    one["text"] = (request_.echoes ? echo_of(request_, model_, choice.prompt) : "") + choice.text;
  }
  json inexact = json::array();
  json ids = json::array();
  for (const auto& token : choice.tokens) {
    ids.push_back(token.id);
    if (token.flags == 0) continue;
    auto entry = exactness(token);
    entry["position"] = token.position;
    inexact.push_back(std::move(entry));
  }
  if (request_.returns_token_ids) one["token_ids"] = std::move(ids);
  if (!inexact.empty()) one["troupe"] = {{"tokens", std::move(inexact)}};
  return one;
}

std::string answer_format::body(std::vector<text_choice>& choices) const {
  json list = json::array();
  for (auto& choice : choices) list.push_back(choice_body(choice));
  const auto used = usage_of(choices);
  return whole_head_ + "\"choices\":" + dumped(list) + ",\"usage\":" + dumped(usage_json(used)) +
         ",\"troupe\":" + dumped({{"approximate_tokens", used.approximate_tokens}}) + '}';
}

}  // namespace troupe::router
