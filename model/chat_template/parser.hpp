// Statements of a template.
#pragma once

#include <string_view>

#include "model/chat_template/syntax.hpp"

namespace troupe::model::jinja {

// Throws failure: "line:column: construct X is not supported", or what is wrong with the syntax.
[[nodiscard]] block parse_template(std::string_view source);

}  // namespace troupe::model::jinja
