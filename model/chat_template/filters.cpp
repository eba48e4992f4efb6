// Filters on one value: `value | name(arguments)`. Those on lists are in list_filters.cpp.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "model/chat_template/json_values.hpp"
#include "model/chat_template/library.hpp"
#include "model/chat_template/list_filters.hpp"
#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

bool flag(const value* given, bool otherwise) { return given == nullptr ? otherwise : is_true(*given); }

template <std::string (*change)(std::string_view)>
value change_case(render_context& context, const value& input, const arguments& given) {
  (void)given.bind("the filter", {});
  return context.made(change(to_text(input)));
}

value absolute(render_context& /*context*/, const value& input, const arguments& /*given*/) {
  if (input.get<double>() != nullptr) return std::abs(to_double(input));
  const auto number = to_integer(input, "abs");
  return number < 0 ? -number : number;
}

value or_default(render_context& /*context*/, const value& input, const arguments& given) {
  const auto bound = given.bind("default", {"default_value", "boolean"});
  const bool missing = input.is_undefined() || (flag(bound[1], false) && !is_true(input));
  if (!missing) return input;
  return bound[0] == nullptr ? value("") : *bound[0];
}

value to_float(render_context& /*context*/, const value& input, const arguments& given) {
  const auto bound = given.bind("float", {"default"});
  if (input.is_number()) return to_double(input);
  const value otherwise = bound[0] == nullptr ? value(0.0) : *bound[0];
  const auto* t = input.as_text();
  if (t == nullptr) return otherwise;
  const auto s = strip(*t, std::nullopt, side::both);
  double number = 0;
  const auto [stop, problem] = std::from_chars(s.data(), s.data() + s.size(), number);
  return problem == std::errc() && stop == s.data() + s.size() ? value(number) : otherwise;
}

value to_int(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("int", {"default", "base"});
  if (bound[1] != nullptr) throw failure("construct int(base) is not supported");
  const value otherwise = bound[0] == nullptr ? value(std::int64_t{0}) : *bound[0];
  if (input.is_number() && input.get<double>() == nullptr) return to_integer(input, "int");
  if (const auto* t = input.as_text()) {
    const auto s = strip(*t, std::nullopt, side::both);
    std::int64_t whole = 0;
    const auto [stop, problem] = std::from_chars(s.data(), s.data() + s.size(), whole);
    if (problem == std::errc() && stop == s.data() + s.size()) return whole;
  }
  const auto number = to_float(context, input, {{value(std::nan(""))}, {}});
  const double whole = std::trunc(to_double(number));
  return std::abs(whole) < 9e18 ? value(static_cast<std::int64_t>(whole)) : otherwise;
}

value indent(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("indent", {"width", "first", "blank"});
  const auto* as_is = bound[0] == nullptr ? nullptr : bound[0]->as_text();
  const auto width = as_is != nullptr || bound[0] == nullptr ? 4 : to_integer(*bound[0], "indent");
  if (width < 0 || width > 1000) throw failure("indent: a width from 0 to 1000 is needed");
  const auto margin = as_is != nullptr ? *as_is : std::string(static_cast<std::size_t>(width), ' ');
  const auto lines = split_lines(to_text(input) + "\n");
  std::string out = flag(bound[1], false) ? margin : "";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (!lines[i].empty() || flag(bound[2], false))) out += margin;
    out += lines[i];
  }
  return context.made(std::move(out));
}

value size_of(render_context& context, const value& input, const arguments& given) {
  (void)given.bind("length", {});
  if (const auto* t = input.as_text()) {
    context.count_steps(t->size() / 64);
    return static_cast<std::int64_t>(length(*t));
  }
  if (const auto* s = input.as_sequence()) return static_cast<std::int64_t>(s->items.size());
  if (const auto* d = input.as_dictionary()) return static_cast<std::int64_t>(d->items.size());
  if (input.is_undefined()) return std::int64_t{0};
  throw failure(fmt::format("'{}' has no length", type_name(input)));
}

value replace_filter(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("replace", {"old", "new", "count"});
  if (bound[0] == nullptr || bound[1] == nullptr) throw failure("replace needs what to replace and with what");
  const bool all = bound[2] == nullptr || bound[2]->is_none();
  return context.made(
      replace(to_text(input), to_text(*bound[0]), to_text(*bound[1]), all ? -1 : to_integer(*bound[2], "replace")));
}

value safe(render_context& /*context*/, const value& input, const arguments& /*given*/) { return input; }

value as_string(render_context& context, const value& input, const arguments& /*given*/) {
  return input.as_text() != nullptr ? input : context.made(to_text(input));
}

value trim(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("trim", {"chars"});
  const auto* chars = bound[0] == nullptr ? nullptr : bound[0]->as_text();
  const auto whole = to_text(input);
  return context.made(
      std::string(strip(whole, chars == nullptr ? std::nullopt : std::optional<std::string_view>(*chars), side::both)));
}

std::optional<std::string> indent_of(const value* given) {
  if (given == nullptr || given->is_none()) return std::nullopt;
  if (const auto* t = given->as_text()) return *t;
  const auto width = to_integer(*given, "tojson");
  if (width < 0 || width > 64) throw failure("tojson: an indent from 0 to 64 is needed");
  return std::string(static_cast<std::size_t>(width), ' ');
}

value as_json(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  json_style style{.ensure_ascii = flag(bound[0], false), .indent = indent_of(bound[1])};
  if (style.indent) style.item_separator = ",";
  style.sort_keys = flag(bound[3], false);
  if (bound[2] != nullptr && !bound[2]->is_none()) {
    const auto* pair = bound[2]->as_sequence();
    if (pair == nullptr || pair->items.size() != 2) throw failure("tojson: separators are two strings");
    style.item_separator = to_text(pair->items[0]);
    style.key_separator = to_text(pair->items[1]);
  }
  return context.made(to_json(input, style));
}

constexpr filter_entry filters[] = {{"abs", absolute},
                                    {"capitalize", change_case<capitalize>},
                                    {"count", size_of},
                                    {"d", or_default},
                                    {"default", or_default},
                                    {"float", to_float},
                                    {"indent", indent},
                                    {"int", to_int},
                                    {"length", size_of},
                                    {"lower", change_case<lower>},
                                    {"replace", replace_filter},
                                    {"safe", safe},
                                    {"string", as_string},
                                    {"title", change_case<title_filter>},
                                    {"tojson", as_json},
                                    {"trim", trim},
                                    {"upper", change_case<upper>}};

const filter_entry* find(std::string_view name) {
  const auto* at = std::ranges::find(filters, name, &filter_entry::name);
  if (at != std::end(filters)) return at;
  return find_list_filter(name);
}

}  // namespace

bool is_filter(std::string_view name) { return find(name) != nullptr; }

value apply_filter(render_context& context, const std::string& name, const value& input, const arguments& given) {
  const auto* known = find(name);
  if (known == nullptr) throw failure(fmt::format("construct filter '{}' is not supported", name));
  context.count_steps(input.as_text() == nullptr ? 1 : 1 + input.as_text()->size() / 64);
  return known->run(context, input, given);
}

}  // namespace troupe::model::jinja
