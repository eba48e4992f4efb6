// JSON in and out, with the order of keys kept, as Python's json module does it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "model/chat_template/value.hpp"

namespace troupe::model::jinja {

// Strict, at most limits::json_depth_max deep; of equal keys the last counts. Throws failure.
[[nodiscard]] value parse_json_value(std::string_view json);

// The arguments of json.dumps, with the defaults that transformers gives `tojson`.
struct json_style {
  bool ensure_ascii{};
  std::optional<std::string> indent{};  // what one level is indented by
  std::string item_separator{", "};
  std::string key_separator{": "};
  bool sort_keys{};
};

// Throws failure for what JSON has no form for (undefined, a function).
[[nodiscard]] std::string to_json(const value& v, const json_style& style);

}  // namespace troupe::model::jinja
