// The messages of /v1/chat/completions.
#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/chat_template/chat_template.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "router_node/shell/openai_settings.hpp"

namespace troupe::router {
namespace {

using nlohmann::json;

// The text of a message: a string, or text parts, which become lines.
std::string content_of(field_reader& fields, const json& message, const std::string& where) {
  const auto at = message.find("content");
  const auto param = where + ".content";
  if (at == message.end() || at->is_null()) {
    fields.refuse(param, fmt::format("{} is missing; send a string", param));
    return {};
  }
  if (at->is_string()) return at->get<std::string>();
  if (!at->is_array() || at->empty()) {
    fields.refuse(param, fmt::format("{}: a string or a list of text parts is needed", param));
    return {};
  }
  std::string out;
  for (std::size_t i = 0; i < at->size(); ++i) {
    const auto& part = (*at)[i];
    const auto type = part.is_object() ? part.value("type", json()) : json();
    const auto text = part.is_object() ? part.value("text", json()) : json();
    if (type != "text" || !text.is_string()) {
      fields.refuse(fmt::format("{}[{}].type", param, i),
                    fmt::format("{}[{}]: only parts of type \"text\" are supported", param, i), "unsupported_content");
      return {};
    }
    if (i > 0) out += '\n';
    out += text.get_ref<const std::string&>();
  }
  return out;
}

json message_of(field_reader& fields, const json& message, const std::string& where) {
  if (!message.is_object()) {
    fields.refuse(where, fmt::format("{}: an object with role and content is needed", where));
    return {};
  }
  const auto role = message.value("role", json());
  static constexpr const char* roles[] = {"system", "developer", "user", "assistant"};
  if (!role.is_string() || std::ranges::find(roles, role.get<std::string>()) == std::end(roles)) {
    fields.refuse(
        where + ".role",
        fmt::format("{}.role: one of system, developer, user, assistant is needed (tools are not supported)", where));
    return {};
  }
  for (const auto* field : {"tool_calls", "function_call", "audio"}) {
    const auto at = message.find(field);
    if (at == message.end() || at->empty()) continue;
    fields.refuse(fmt::format("{}.{}", where, field), fmt::format("{}.{} is not supported; leave it out", where, field),
                  "unsupported_parameter");
    return {};
  }
  json out{{"role", role == "developer" ? json("system") : role}, {"content", content_of(fields, message, where)}};
  const auto name = message.value("name", json());
  if (name.is_string()) out["name"] = name;
  return out;
}

json messages_of(field_reader& fields) {
  const auto* messages = fields.take("messages");
  json out = json::array();
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    fields.refuse("messages", "messages: a list of at least one message is needed");
    return out;
  }
  if (messages->size() > limits::chat_messages_max) {
    fields.refuse("messages", fmt::format("messages: at most {} are accepted", limits::chat_messages_max));
    return out;
  }
  for (std::size_t i = 0; i < messages->size() && !fields.problem(); ++i) {
    out.push_back(message_of(fields, (*messages)[i], fmt::format("messages[{}]", i)));
  }
  return out;
}

void render(field_reader& fields, const served_model& model, const request_arrival& arrival, text_request& into) {
  if (model.tokenizer == nullptr) return refuse_without_tokenizer(fields, model, "messages");
  if (model.chat_template == nullptr) {
    return fields.refuse("messages",
                         fmt::format("this model cannot chat, it has no chat template ({}); use /v1/completions",
                                     model.no_chat_template),
                         "no_chat_template");
  }
  const auto messages = messages_of(fields);
  const auto* more = fields.take("chat_template_kwargs");
  if (more != nullptr && !more->is_object()) {
    fields.refuse("chat_template_kwargs", "chat_template_kwargs: an object is needed");
  }
  const bool opens_answer = fields.flag("add_generation_prompt", true);
  if (fields.problem()) return;
  const auto messages_json = messages.dump();
  const auto extra = more == nullptr ? std::string("{}") : more->dump();
  auto text = model.chat_template->render({messages_json, opens_answer, extra, arrival.local_seconds});
  if (!text) return fields.refuse("messages", text.error().message, {}, text.error().code);
  auto tokens = model.tokenizer->encode(*text, false);  // the template writes the special tokens itself
  into.prompts.push_back({std::move(*text), std::move(tokens)});
}

void read_chat_logprobs(field_reader& fields, text_request& into) {
  into.settings.wants_logprobs = fields.flag("logprobs", false);
  into.settings.top_logprobs = static_cast<std::uint32_t>(fields.whole("top_logprobs", 0, limits::top_logprobs_max, 0));
  if (into.settings.top_logprobs > 0 && !into.settings.wants_logprobs) {
    fields.refuse("top_logprobs", "top_logprobs goes with logprobs=true");
  }
}

}  // namespace

tl::expected<text_request, request_refusal> read_chat(const served_model& model, std::string_view body,
                                                      const request_arrival& arrival) {
  const auto document = read_object(body);
  if (!document) return tl::unexpected(document.error());
  field_reader fields(*document);
  text_request into;
  into.is_chat = true;
  read_settings(fields, model, arrival, into);
  if (fields.flag("echo", false)) {
    fields.refuse("echo", "echo is not supported for chats; use /v1/completions", "unsupported_parameter");
  }
  read_chat_logprobs(fields, into);
  if (!fields.problem()) render(fields, model, arrival, into);
  if (!fields.problem()) read_length(fields, model, into);
  if (fields.problem()) return tl::unexpected(*fields.problem());
  into.ignored = fields.ignored();
  return into;
}

}  // namespace troupe::router
