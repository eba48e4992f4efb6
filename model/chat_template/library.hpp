// The functions, filters, tests and methods that a template may use, by name: those that published chat templates use,
// with Jinja2's and Python's meaning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat_template/value.hpp"

namespace troupe::model::jinja {

// What one rendering may still use, and what it may know of the world.
struct render_context {
  std::uint64_t steps_left{};
  std::uint64_t bytes_left{};    // of all texts made on the way
  std::int64_t local_seconds{};  // since 1970, in local time

  void count_steps(std::uint64_t steps);       // throws failure when none are left
  [[nodiscard]] value made(std::string text);  // counts the bytes of a new text
};

struct arguments {
  std::vector<value> positional{};
  entries named{};

  // One pointer per parameter, nullptr where it was not given. Throws failure for too many and for unknown names.
  [[nodiscard]] std::vector<const value*> bind(std::string_view what,
                                               std::initializer_list<std::string_view> parameters) const;
};

[[nodiscard]] bool is_function(std::string_view name);
[[nodiscard]] bool is_filter(std::string_view name);
[[nodiscard]] bool is_test(std::string_view name);
[[nodiscard]] bool test_has_argument(std::string_view name);
[[nodiscard]] bool is_method(std::string_view name);  // of any type

// All throw failure.
[[nodiscard]] value call_function(render_context& context, const std::string& name, const arguments& given);
[[nodiscard]] value apply_filter(render_context& context, const std::string& name, const value& input,
                                 const arguments& given);
[[nodiscard]] bool apply_test(render_context& context, const std::string& name, const value& input,
                              const arguments& given);
[[nodiscard]] value call_method(render_context& context, const std::string& name, const value& object,
                                const arguments& given);

// `object.name` and `object[key]` as Jinja2's sandbox finds them; undefined when there is no such thing.
[[nodiscard]] value find_attribute(render_context& context, const value& object, const std::string& name);
[[nodiscard]] value find_item(render_context& context, const value& object, const value& key);

// What a for block goes through. Throws failure for what Python does not iterate over.
[[nodiscard]] std::vector<value> iterate(render_context& context, const value& v);
// `item in container`.
[[nodiscard]] bool contains(render_context& context, const value& container, const value& item);

}  // namespace troupe::model::jinja
