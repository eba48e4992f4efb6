#include "model/chat_template/chat_template.hpp"

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/chat_template/interpreter.hpp"
#include "model/chat_template/json_values.hpp"
#include "model/chat_template/parser.hpp"
#include "model/file.hpp"

namespace troupe::model {
namespace {

constexpr const char* special_tokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

// {"content": "<s>", ...} or "<s>".
const jinja::value* text_of_token(const jinja::value* token) {
  if (token == nullptr || token->as_text() != nullptr) return token;
  const auto* details = token->as_dictionary();
  const auto* content = details == nullptr ? nullptr : details->find("content");
  return content != nullptr && content->as_text() != nullptr ? content : nullptr;
}

jinja::value tokens_of(const jinja::dictionary& config) {
  jinja::entries found;
  for (const auto* name : special_tokens) {
    if (const auto* token = text_of_token(config.find(name))) found.emplace_back(name, *token);
  }
  return jinja::value::dict(std::move(found));
}

// "chat_template": a text, or [{"name": "default", "template": ...}, ...]. nullptr: there is none.
const std::string* template_of(const jinja::dictionary& config) {
  const auto* entry = config.find("chat_template");
  if (entry == nullptr) return nullptr;
  if (const auto* source = entry->as_text()) return source;
  if (entry->as_sequence() == nullptr) return nullptr;
  for (const auto& one : entry->as_sequence()->items) {
    const auto* named = one.as_dictionary();
    const auto* name = named == nullptr ? nullptr : named->find("name");
    const auto* source = named == nullptr ? nullptr : named->find("template");
    if (name == nullptr || source == nullptr || name->as_text() == nullptr) continue;
    if (*name->as_text() == "default") return source->as_text();
  }
  return nullptr;
}

}  // namespace

struct chat_template::parts {
  jinja::block statements;
  jinja::entries variables;
};

chat_template::chat_template(std::unique_ptr<const parts> p) : parts_(std::move(p)) {}
chat_template::~chat_template() = default;

result<std::unique_ptr<const chat_template>> chat_template::parse(std::string_view source, std::string_view variables) {
  if (source.size() > limits::chat_template_bytes_max) {
    return fail(errc::too_large, fmt::format("the chat template has {} bytes; at most {} are read", source.size(),
                                             limits::chat_template_bytes_max));
  }
  try {
    auto made = std::make_unique<parts>();
    made->statements = jinja::parse_template(source);
    const auto known = jinja::parse_json_value(variables);
    if (known.as_dictionary() == nullptr) return fail(errc::invalid_request, "the variables are no JSON object");
    made->variables = known.as_dictionary()->items;
    return std::unique_ptr<const chat_template>(new chat_template(std::move(made)));
  } catch (const jinja::failure& f) {
    return fail(errc::invalid_request, f.message());
  }
}

result<std::unique_ptr<const chat_template>> chat_template::open(const std::filesystem::path& model_folder) {
  auto text = read_text(model_folder / "tokenizer_config.json", limits::config_json_bytes_max);
  if (!text && text.error().code != errc::not_found) return fail(text.error());
  jinja::value config = jinja::value::dict({});
  try {
    if (text) config = jinja::parse_json_value(*text);
    if (config.as_dictionary() == nullptr) throw jinja::failure("it is no JSON object");
  } catch (const jinja::failure& f) {
    return fail(errc::invalid_request, fmt::format("tokenizer_config.json: {}; repair the file", f.message()));
  }
  const auto variables = jinja::to_json(tokens_of(*config.as_dictionary()), {});
  auto own_file = read_text(model_folder / "chat_template.jinja", limits::chat_template_bytes_max);
  if (own_file) return parse(*own_file, variables);
  if (own_file.error().code != errc::not_found) return fail(own_file.error());
  const auto* inside = template_of(*config.as_dictionary());
  if (inside != nullptr) return parse(*inside, variables);
  return fail(errc::not_found, fmt::format("{} has no chat template; add chat_template.jinja, or ask for completions "
                                           "of text instead",
                                           model_folder.string()));
}

result<std::string> chat_template::render(const chat_inputs& inputs) const {
  try {
    jinja::name_space variables{parts_->variables};
    variables.set("messages", jinja::parse_json_value(inputs.messages));
    variables.set("tools", {});
    variables.set("documents", {});
    variables.set("add_generation_prompt", inputs.add_generation_prompt);
    const auto extra = jinja::parse_json_value(inputs.extra);
    if (extra.as_dictionary() == nullptr) return fail(errc::invalid_request, "the extra variables are no JSON object");
    for (const auto& [name, v] : extra.as_dictionary()->items) variables.set(name, v);
    return jinja::render(parts_->statements, std::move(variables.attributes), inputs.local_seconds);
  } catch (const jinja::failure& f) {
    return fail(errc::invalid_request, f.is_as_is() ? f.message() : "chat template " + f.message());
  }
}

}  // namespace troupe::model
