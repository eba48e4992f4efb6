#include "router_node/shell/openai_settings.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "router_node/core/layer_plan.hpp"

namespace troupe::router {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

// -- what is not supported ----------------------------------------------------------------------------------------

bool is_truthy(const json& v) {
  if (v.is_boolean()) return v.get<bool>();
  if (v.is_number()) return v.get<double>() != 0;
  return !v.empty();
}

bool is_no_text_format(const json& v) { return !v.is_object() || !v.contains("type") || v["type"] != "text"; }
bool is_no_none(const json& v) { return v != "none"; }
bool is_not_text_only(const json& v) { return v != json::array({"text"}); }

struct unsupported {
  const char* field;
  bool (*asks_for_it)(const json&);  // harmless values are let through
  const char* why;
};

constexpr unsupported unsupported_fields[] = {{"tools", is_truthy, "tools cannot be called"},
                                              {"tool_choice", is_no_none, "tools cannot be called"},
                                              {"functions", is_truthy, "functions cannot be called"},
                                              {"function_call", is_no_none, "functions cannot be called"},
                                              {"response_format", is_no_text_format, "answers are free text"},
                                              {"guided_json", is_truthy, "answers are free text"},
                                              {"guided_regex", is_truthy, "answers are free text"},
                                              {"guided_choice", is_truthy, "answers are free text"},
                                              {"guided_grammar", is_truthy, "answers are free text"},
                                              {"structured_outputs", is_truthy, "answers are free text"},
                                              {"grammar", is_truthy, "answers are free text"},
                                              {"json_schema", is_truthy, "answers are free text"},
                                              {"suffix", is_truthy, "text is only continued, not filled in"},
                                              {"modalities", is_not_text_only, "answers are text"},
                                              {"audio", is_truthy, "answers are text"},
                                              {"prediction", is_truthy, "predicted outputs are not used"},
                                              {"web_search_options", is_truthy, "nothing is searched"},
                                              {"use_beam_search", is_truthy, "tokens are sampled"},
                                              {"min_tokens", is_truthy, "an answer may be short"},
                                              {"bad_words", is_truthy, "use logit_bias"},
                                              {"allowed_token_ids", is_truthy, "use logit_bias"},
                                              {"logits_processors", is_truthy, "use logit_bias"},
                                              {"prompt_logprobs", is_truthy, "use echo with logprobs"},
                                              {"truncate_prompt_tokens", is_truthy, "shorten the prompt"},
                                              {"continue_final_message", is_truthy, "answers are new messages"},
                                              {"prompt_embeds", is_truthy, "prompts are text or token ids"}};

void refuse_unsupported(field_reader& fields) {
  for (const auto& [field, asks_for_it, why] : unsupported_fields) {
    const auto* v = fields.take(field);
    if (v == nullptr || !asks_for_it(*v)) continue;
    fields.refuse(field, fmt::format("{} is not supported: {}; leave it out", field, why), "unsupported_parameter");
  }
}

// -- what is supported --------------------------------------------------------------------------------------------

void read_model(field_reader& fields, const served_model& model) {
  const auto wanted = fields.text("model");
  if (wanted.empty() || wanted == model.name) return;
  fields.refuse(
      "model", fmt::format("there is no model '{}' here; GET /v1/models lists '{}'", wanted.substr(0, 128), model.name),
      "model_not_found", errc::not_found);
}

void read_logit_bias(field_reader& fields, const served_model& model, sampling_settings& into) {
  const auto* biases = fields.take("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object() || biases->size() > limits::logit_bias_entries_max) {
    return fields.refuse("logit_bias", fmt::format("logit_bias: an object of at most {} token ids is needed",
                                                   limits::logit_bias_entries_max));
  }
  for (const auto& [key, bias] : biases->items()) {
    token_number id = 0;
    const auto [stop, problem] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (problem != std::errc() || stop != key.data() + key.size() || id >= model.limits.vocabulary) {
      return fields.refuse("logit_bias", fmt::format("logit_bias: '{}' is no token id below {}", key.substr(0, 32),
                                                     model.limits.vocabulary));
    }
    if (!bias.is_number() || !(std::abs(bias.get<double>()) <= limits::logit_bias_max)) {
      return fields.refuse("logit_bias", fmt::format("logit_bias: token {} needs a number from {} to {}", id,
                                                     -limits::logit_bias_max, limits::logit_bias_max));
    }
    into.logit_bias[id] = bias.get<float>();
  }
}

void read_sampling(field_reader& fields, const served_model& model, sampling_settings& into) {
  into.temperature = fields.number("temperature", 0, limits::temperature_max, 1);
  into.top_p = fields.number("top_p", 1e-6, 1, 1);
  into.min_p = fields.number("min_p", 0, 1, 0);
  into.repetition_penalty =
      fields.number("repetition_penalty", limits::repetition_penalty_min, limits::repetition_penalty_max, 1);
  into.presence_penalty = fields.number("presence_penalty", -limits::added_penalty_max, limits::added_penalty_max, 0);
  into.frequency_penalty = fields.number("frequency_penalty", -limits::added_penalty_max, limits::added_penalty_max, 0);
  // -1 is how vLLM's clients say "all".
  const auto* top_k = fields.take("top_k");
  if (top_k != nullptr && *top_k != -1) into.top_k = static_cast<std::uint32_t>(fields.whole("top_k", 0, INT32_MAX, 0));
  // All 64 bits: clients are told seeds as unsigned numbers, and may send negative ones.
  const auto* seed = fields.take("seed");
  into.seed = seed != nullptr && seed->is_number_unsigned() ? seed->get<std::uint64_t>()
                                                            : fields.whole("seed", INT64_MIN, INT64_MAX, into.seed);
  read_logit_bias(fields, model, into);
}

void read_stops(field_reader& fields, const served_model& model, generation_request& into) {
  into.stop_token_ids = fields.tokens("stop_token_ids", limits::stop_token_ids_max, model.limits.vocabulary);
  into.ignore_eos = fields.flag("ignore_eos", false);
  const auto* stop = fields.take("stop");
  if (stop == nullptr) return;
  const auto list = stop->is_array() ? *stop : json::array({*stop});
  if (list.size() > limits::stop_strings_max) {
    return fields.refuse("stop", fmt::format("stop: at most {} strings are accepted", limits::stop_strings_max));
  }
  for (const auto& one : list) {
    const auto* text = one.get_ptr<const std::string*>();
    if (text == nullptr || text->empty() || text->size() > limits::stop_string_bytes_max) {
      return fields.refuse("stop",
                           fmt::format("stop: strings of 1 to {} bytes are needed", limits::stop_string_bytes_max));
    }
    into.stop.push_back(*text);
  }
  if (!into.stop.empty() && model.tokenizer == nullptr) refuse_without_tokenizer(fields, model, "stop");
}

void read_choices(field_reader& fields, text_request& into) {
  into.choices = static_cast<std::uint32_t>(fields.whole("n", 1, limits::choices_max, 1));
  const auto* best_of = fields.take("best_of");
  if (best_of != nullptr && *best_of != into.choices) {
    fields.refuse("best_of", "best_of is not supported: all answers are given; use n", "unsupported_parameter");
  }
}

void read_streaming(field_reader& fields, text_request& into) {
  into.streams = fields.flag("stream", false);
  const auto* options = fields.take("stream_options");
  if (options == nullptr) return;
  if (!into.streams || !options->is_object()) {
    return fields.refuse("stream_options", "stream_options: an object that goes with stream=true");
  }
  field_reader inside(*options);
  into.includes_usage = inside.flag("include_usage", false);
  if (inside.problem()) fields.refuse("stream_options.include_usage", inside.problem()->reason.message);
}

void read_policy(field_reader& fields, const request_arrival& arrival, generation_request& into) {
  const auto policy = fields.text("degrade");
  if (const auto known = parse_degrade(policy.empty() ? "wait" : policy)) {
    into.policy = *known;
  } else {
    fields.refuse("degrade", fmt::format("degrade: '{}' is none of {}", policy.substr(0, 32), degrade_names));
  }
  const auto most = std::chrono::duration_cast<milliseconds>(limits::generation_timeout_max).count();
  const auto usual = std::chrono::duration_cast<milliseconds>(limits::generation_timeout_default).count();
  into.deadline = arrival.now + milliseconds(fields.whole("timeout_ms", 0, most, static_cast<std::uint64_t>(usual)));
}

}  // namespace

void refuse_without_tokenizer(field_reader& fields, const served_model& model, const std::string& param) {
  fields.refuse(param,
                fmt::format("this model understands no text ({}); send token ids as `prompt` of /v1/completions",
                            model.no_tokenizer),
                "no_tokenizer");
}

void read_settings(field_reader& fields, const served_model& model, const request_arrival& arrival,
                   text_request& into) {
  auto& settings = into.settings;
  settings.arrived = arrival.now;
  settings.client = arrival.client;
  settings.sampling.seed = arrival.seed;
  read_model(fields, model);
  refuse_unsupported(fields);
  read_sampling(fields, model, settings.sampling);
  read_stops(fields, model, settings);
  read_choices(fields, into);
  read_streaming(fields, into);
  read_policy(fields, arrival, settings);
  settings.skips_special = fields.flag("skip_special_tokens", true);
  into.returns_token_ids = fields.flag("return_token_ids", false) || model.tokenizer == nullptr;
  (void)fields.take("user");  // whose request it is counts by API key
}

void read_length(field_reader& fields, const served_model& model, text_request& into) {
  const auto context = model.limits.context_tokens;
  const std::string param = into.is_chat ? "messages" : "prompt";
  std::size_t longest = 0;
  for (const auto& prompt : into.prompts) {
    if (prompt.tokens.empty()) return fields.refuse(param, fmt::format("{}: the prompt is empty", param));
    longest = std::max(longest, prompt.tokens.size());
  }
  const auto has_newer = fields.take("max_completion_tokens") != nullptr;
  const auto has_older = fields.take("max_tokens") != nullptr;
  const std::string name = has_newer ? "max_completion_tokens" : "max_tokens";
  const bool is_given = has_newer || has_older;
  const auto asked = fields.whole(name, into.echoes ? 0 : 1, INT32_MAX, limits::completion_tokens_default);
  if (fields.problem()) return;
  if (longest >= context) {
    return fields.refuse(
        param, fmt::format("the model's context is {} tokens, the prompt has {}; shorten it", context, longest),
        "context_length_exceeded");
  }
  const auto room = context - longest;
  if (is_given && asked > room) {
    return fields.refuse(
        name,
        fmt::format("the model's context is {} tokens, the prompt has {} and {} were asked for; ask for "
                    "at most {}",
                    context, longest, asked, room),
        "context_length_exceeded");
  }
  into.hides_answer = asked == 0;
  const auto wanted = is_given || !into.is_chat ? std::min<std::uint64_t>(asked, room) : room;
  into.settings.max_tokens = static_cast<std::uint32_t>(std::max<std::uint64_t>(wanted, 1));
}

}  // namespace troupe::router
