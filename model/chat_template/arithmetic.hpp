// Operators of expressions, with Python's meaning. All throw failure.
#pragma once

#include <string>

#include "model/chat_template/library.hpp"

namespace troupe::model::jinja {

// `sign`: + - * / // % ** ~
[[nodiscard]] value calculate(render_context& context, const std::string& sign, const value& a, const value& b);
[[nodiscard]] value negative(const value& v);
[[nodiscard]] value positive(const value& v);
// `word`: == != < <= > >= in, not in
[[nodiscard]] bool holds(render_context& context, const std::string& word, const value& a, const value& b);
// v[from:to:step]; none stands for an absent bound.
[[nodiscard]] value slice(render_context& context, const value& v, const value& from, const value& to,
                          const value& step);

}  // namespace troupe::model::jinja
