#include "router_node/shell/openai_request.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/json_document.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "router_node/core/generation/mixing.hpp"
#include "router_node/shell/openai_settings.hpp"

namespace troupe::router {
namespace {

using nlohmann::json;

text_prompt prompt_of(field_reader& fields, const served_model& model, const json& one) {
  if (one.is_array()) {
    return {{}, fields.tokens("prompt", one, limits::http_json_body_bytes_max, model.limits.vocabulary)};
  }
  const auto* text = one.get_ptr<const std::string*>();
  if (text == nullptr) {
    fields.refuse("prompt", "prompt: a string, a list of token ids, or a list of either is needed");
    return {};
  }
  if (model.tokenizer == nullptr) {
    refuse_without_tokenizer(fields, model, "prompt");
    return {};
  }
  return {*text, model.tokenizer->encode(*text, true)};
}

void read_prompts(field_reader& fields, const served_model& model, text_request& into) {
  const auto* prompt = fields.take("prompt");
  if (prompt == nullptr) return fields.refuse("prompt", "prompt is missing; send a string or token ids");
  const bool is_list = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (!is_list) {
    into.prompts.push_back(prompt_of(fields, model, *prompt));
    return;
  }
  if (prompt->size() * into.choices > limits::answers_per_request_max) {
    return fields.refuse("prompt", fmt::format("{} prompts with n={} are more than {} answers; send several requests",
                                               prompt->size(), into.choices, limits::answers_per_request_max));
  }
  for (const auto& one : *prompt) {
    into.prompts.push_back(prompt_of(fields, model, one));
    if (fields.problem()) return;
  }
}

void read_completion_logprobs(field_reader& fields, text_request& into) {
  if (fields.take("logprobs") == nullptr) return;
  into.settings.wants_logprobs = true;
  into.settings.top_logprobs = static_cast<std::uint32_t>(fields.whole("logprobs", 0, limits::top_logprobs_max, 0));
}

// A generator of its own for every further choice, made from the seed alone.
std::uint64_t seed_of_choice(std::uint64_t seed, std::uint32_t choice) {
  if (choice == 0) return seed;
  return mixed(seed + choice * mixing_gamma);
}

}  // namespace

tl::expected<json, request_refusal> read_object(std::string_view body) {
  auto document = model::parse_json(body, limits::http_json_body_bytes_max, "send a JSON object");
  if (!document) return tl::unexpected(request_refusal{document.error(), {}, {}});
  if (!document->is_object()) {
    return tl::unexpected(request_refusal{{errc::invalid_request, "the body is no JSON object; send one"}, {}, {}});
  }
  return std::move(*document);
}

tl::expected<text_request, request_refusal> read_completion(const served_model& model, std::string_view body,
                                                            const request_arrival& arrival) {
  const auto document = read_object(body);
  if (!document) return tl::unexpected(document.error());
  field_reader fields(*document);
  text_request into;
  read_settings(fields, model, arrival, into);
  into.echoes = fields.flag("echo", false);
  read_completion_logprobs(fields, into);
  into.settings.wants_prompt_logprobs = into.echoes && into.settings.wants_logprobs;
  if (!fields.problem()) read_prompts(fields, model, into);
  if (!fields.problem()) read_length(fields, model, into);
  if (fields.problem()) return tl::unexpected(*fields.problem());
  into.ignored = fields.ignored();
  return into;
}

std::vector<generation_request> jobs_of(const text_request& request) {
  std::vector<generation_request> jobs;
  for (const auto& prompt : request.prompts) {
    for (std::uint32_t choice = 0; choice < request.choices; ++choice) {
      auto& job = jobs.emplace_back(request.settings);
      job.prompt = prompt.tokens;
      job.sampling.seed = seed_of_choice(request.settings.sampling.seed, choice);
    }
  }
  return jobs;
}

tl::expected<std::string, request_refusal> answer_tokenize(const served_model& model, std::string_view body) {
  const auto document = read_object(body);
  if (!document) return tl::unexpected(document.error());
  field_reader fields(*document);
  if (fields.take("content") == nullptr) fields.refuse("content", "content is missing; send the text");
  const auto content = fields.text("content");
  const auto add_special = fields.flag("add_special", false);
  if (model.tokenizer == nullptr) refuse_without_tokenizer(fields, model, "content");
  if (fields.problem()) return tl::unexpected(*fields.problem());
  return json{{"tokens", model.tokenizer->encode(content, add_special)}}.dump();
}

tl::expected<std::string, request_refusal> answer_detokenize(const served_model& model, std::string_view body) {
  const auto document = read_object(body);
  if (!document) return tl::unexpected(document.error());
  field_reader fields(*document);
  if (fields.take("tokens") == nullptr) fields.refuse("tokens", "tokens is missing; send a list of token ids");
  const auto tokens = fields.tokens("tokens", limits::http_json_body_bytes_max, model.limits.vocabulary);
  if (model.tokenizer == nullptr) refuse_without_tokenizer(fields, model, "tokens");
  if (fields.problem()) return tl::unexpected(*fields.problem());
  return json{{"content", model.tokenizer->decode(tokens, false)}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace troupe::router
