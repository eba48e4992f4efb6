// Renders a parsed template. One rendering, one thread.
#pragma once

#include <cstdint>
#include <string>

#include "model/chat_template/syntax.hpp"

namespace troupe::model::jinja {

// The text of `statements` with these variables. Throws failure; steps, nesting and text are bounded by limits.hpp.
[[nodiscard]] std::string render(const block& statements, entries variables, std::int64_t local_seconds);

}  // namespace troupe::model::jinja
