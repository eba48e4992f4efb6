// A checkpoint's chat template: from messages to the text that the model was trained to answer.
//
// First file to read of model/chat_template. A strict reader of the part of Jinja2 that published templates use, in the
// environment that transformers gives them (trim_blocks, lstrip_blocks, sandbox, its tojson, raise_exception and
// strftime_now). What lies outside of it is refused when the template is opened, by name and place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::model {

struct chat_inputs {
  std::string_view messages;         // JSON: list of {"role", "content", ...}
  bool add_generation_prompt{true};  // end with the beginning of the assistant's answer
  std::string_view extra{"{}"};      // JSON: more variables; they win over the special tokens
  std::int64_t local_seconds{};      // now, since 1970, in local time: for strftime_now()
};

// Immutable; const calls from many threads are safe.
class chat_template {
 public:
  // `chat_template.jinja`, else `chat_template` of tokenizer_config.json (a text, or a list of which "default" is
  // taken). The special tokens of tokenizer_config.json are its variables. not_found when there is none;
  // invalid_request "line:column: construct X is not supported" and the like.
  [[nodiscard]] static result<std::unique_ptr<const chat_template>> open(const std::filesystem::path& model_folder);

  // `variables`: JSON object that every rendering sees (bos_token, eos_token, ...).
  [[nodiscard]] static result<std::unique_ptr<const chat_template>> parse(std::string_view source,
                                                                          std::string_view variables = "{}");
  ~chat_template();
  chat_template(const chat_template&) = delete;
  chat_template& operator=(const chat_template&) = delete;

  // invalid_request: what the template itself says by raise_exception(), or "chat template LINE:COLUMN: reason".
  // Steps, nesting and text are bounded (limits::chat_template_*).
  [[nodiscard]] result<std::string> render(const chat_inputs& inputs) const;
  [[nodiscard]] result<std::string> render(std::string_view messages_json, bool add_generation_prompt,
                                           std::string_view extra_json = "{}") const {
    return render({messages_json, add_generation_prompt, extra_json, 0});
  }

 private:
  struct parts;
  explicit chat_template(std::unique_ptr<const parts> p);
  std::unique_ptr<const parts> parts_;
};

}  // namespace troupe::model
