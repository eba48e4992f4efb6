// Filters that go through a list, a dict or a string.
#pragma once

#include <string_view>

#include "model/chat_template/library.hpp"

namespace troupe::model::jinja {

struct filter_entry {
  std::string_view name;
  value (*run)(render_context&, const value& input, const arguments&);
};

// nullptr when there is none of that name.
[[nodiscard]] const filter_entry* find_list_filter(std::string_view name);

}  // namespace troupe::model::jinja
