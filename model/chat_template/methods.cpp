// Methods of strings, dicts, lists and of `loop`.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "model/chat_template/library.hpp"
#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

using method = value (*)(render_context&, const value& object, const arguments&);

const std::string& own_text(const value& object) { return *object.as_text(); }

std::string text_argument(const value* given, std::string_view what) {
  const auto* t = given == nullptr ? nullptr : given->as_text();
  if (t == nullptr) throw failure(fmt::format("{} needs a string", what));
  return *t;
}

std::optional<std::string> optional_text(const value* given, std::string_view what) {
  if (given == nullptr || given->is_none()) return std::nullopt;
  return text_argument(given, what);
}

value list_of(render_context& context, std::vector<std::string> parts) {
  std::vector<value> items;
  for (auto& part : parts) items.push_back(context.made(std::move(part)));
  context.count_steps(items.size());
  return value::list(std::move(items));
}

template <side where>
value strip_method(render_context& context, const value& object, const arguments& given) {
  const auto chars = optional_text(given.bind("strip()", {"chars"})[0], "strip()");
  return context.made(
      std::string(strip(own_text(object), chars ? std::optional<std::string_view>(*chars) : std::nullopt, where)));
}

template <bool from_right>
value split_method(render_context& context, const value& object, const arguments& given) {
  const auto bound = given.bind("split()", {"sep", "maxsplit"});
  const auto separator = optional_text(bound[0], "split()");
  const auto times = bound[1] == nullptr ? -1 : to_integer(*bound[1], "split()");
  if (!from_right) {
    return list_of(context, split(own_text(object),
                                  separator ? std::optional<std::string_view>(*separator) : std::nullopt, times));
  }
  if (!separator) throw failure("construct rsplit() without a separator is not supported");
  return list_of(context, split_from_right(own_text(object), *separator, times));
}

// startswith, endswith: a string, or a tuple of them.
template <bool at_end>
value has_affix(render_context& /*context*/, const value& object, const arguments& given) {
  const auto bound = given.bind(at_end ? "endswith()" : "startswith()", {"affix"});
  const auto fits = [&object](const value& affix) {
    const auto wanted = text_argument(&affix, at_end ? "endswith()" : "startswith()");
    return at_end ? own_text(object).ends_with(wanted) : own_text(object).starts_with(wanted);
  };
  if (bound[0] != nullptr && bound[0]->as_sequence() != nullptr) {
    return std::ranges::any_of(bound[0]->as_sequence()->items, fits);
  }
  return fits(bound[0] == nullptr ? value() : *bound[0]);
}

template <bool at_end>
value without_affix(render_context& context, const value& object, const arguments& given) {
  const auto affix =
      text_argument(given.bind("removeprefix()", {"affix"})[0], at_end ? "removesuffix()" : "removeprefix()");
  std::string_view rest = own_text(object);
  if (at_end && rest.ends_with(affix)) rest.remove_suffix(affix.size());
  if (!at_end && rest.starts_with(affix)) rest.remove_prefix(affix.size());
  return context.made(std::string(rest));
}

template <std::string (*change)(std::string_view)>
value change_case(render_context& context, const value& object, const arguments& given) {
  (void)given.bind("the method", {});
  return context.made(change(own_text(object)));
}

value replace_method(render_context& context, const value& object, const arguments& given) {
  const auto bound = given.bind("replace()", {"old", "new", "count"});
  const auto times = bound[2] == nullptr ? -1 : to_integer(*bound[2], "replace()");
  return context.made(
      replace(own_text(object), text_argument(bound[0], "replace()"), text_argument(bound[1], "replace()"), times));
}

template <bool from_right>
value find_method(render_context& /*context*/, const value& object, const arguments& given) {
  const auto part = text_argument(given.bind("find()", {"part"})[0], "find()");
  const auto& whole = own_text(object);
  const auto at = from_right ? whole.rfind(part) : whole.find(part);
  if (at == std::string::npos) return std::int64_t{-1};
  return static_cast<std::int64_t>(length(std::string_view(whole).substr(0, at)));
}

value join_method(render_context& context, const value& object, const arguments& given) {
  const auto bound = given.bind("join()", {"items"});
  if (bound[0] == nullptr) throw failure("join() needs a list");
  std::string out;
  bool first = true;
  for (const auto& item : iterate(context, *bound[0])) {
    if (!first) out += own_text(object);
    first = false;
    out += text_argument(&item, "join()");
  }
  return context.made(std::move(out));
}

value is_digits(render_context& /*context*/, const value& object, const arguments& /*given*/) {
  const auto& s = own_text(object);
  return !s.empty() && std::ranges::all_of(s, [](char c) { return c >= '0' && c <= '9'; });
}

value is_blank(render_context& /*context*/, const value& object, const arguments& /*given*/) {
  return !own_text(object).empty() && strip(own_text(object), std::nullopt, side::both).empty();
}

value split_lines_method(render_context& context, const value& object, const arguments& given) {
  (void)given.bind("splitlines()", {});
  return list_of(context, split_lines(own_text(object)));
}

value count_method(render_context& context, const value& object, const arguments& given) {
  const auto bound = given.bind("count()", {"value"});
  if (bound[0] == nullptr) throw failure("count() needs a value");
  if (object.as_text() != nullptr) return count(own_text(object), text_argument(bound[0], "count()"));
  const auto items = iterate(context, object);
  return static_cast<std::int64_t>(
      std::ranges::count_if(items, [&bound](const value& one) { return is_equal(one, *bound[0]); }));
}

value index_method(render_context& context, const value& object, const arguments& given) {
  const auto bound = given.bind("index()", {"value"});
  if (bound[0] == nullptr) throw failure("index() needs a value");
  if (object.as_text() != nullptr) {
    const auto at = find_method<false>(context, object, given);
    if (*at.get<std::int64_t>() < 0) throw failure("index(): the part was not found");
    return at;
  }
  const auto items = iterate(context, object);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (is_equal(items[i], *bound[0])) return static_cast<std::int64_t>(i);
  }
  throw failure("index(): the value is not in the list");
}

value get_method(render_context& context, const value& object, const arguments& given) {
  const auto bound = given.bind("get()", {"key", "default"});
  if (bound[0] == nullptr) throw failure("get() needs a key");
  context.count_steps(object.as_dictionary()->items.size() / 8);
  const auto* name = bound[0]->as_text();
  const auto* found = name == nullptr ? nullptr : object.as_dictionary()->find(*name);
  if (found != nullptr) return *found;
  return bound[1] == nullptr ? value() : *bound[1];
}

enum class part : std::uint8_t { keys, values, both };
template <part wanted>
value parts_of(render_context& context, const value& object, const arguments& given) {
  (void)given.bind("the method", {});
  std::vector<value> out;
  for (const auto& [key, v] : object.as_dictionary()->items) {
    out.push_back(wanted == part::keys ? value(key) : wanted == part::values ? v : value::tuple({value(key), v}));
  }
  context.count_steps(out.size());
  return value::list(std::move(out));
}

value copy_method(render_context& /*context*/, const value& object, const arguments& /*given*/) { return object; }

value cycle_method(render_context& /*context*/, const value& object, const arguments& given) {
  if (given.positional.empty()) throw failure("loop.cycle() needs a value");
  return given.positional[(*object.get<std::shared_ptr<loop_state>>())->index % given.positional.size()];
}

value changed_method(render_context& /*context*/, const value& object, const arguments& given) {
  auto& loop = **object.get<std::shared_ptr<loop_state>>();
  auto now = value::tuple(given.positional);
  const bool changed = !loop.last_changed || !is_equal(*loop.last_changed, now);
  loop.last_changed = std::make_shared<const value>(std::move(now));
  return changed;
}

struct entry {
  std::string_view name;
  method run;
};

constexpr entry methods[] = {{"capitalize", change_case<capitalize>},
                             {"changed", changed_method},
                             {"copy", copy_method},
                             {"count", count_method},
                             {"cycle", cycle_method},
                             {"endswith", has_affix<true>},
                             {"find", find_method<false>},
                             {"get", get_method},
                             {"index", index_method},
                             {"isdigit", is_digits},
                             {"isspace", is_blank},
                             {"items", parts_of<part::both>},
                             {"join", join_method},
                             {"keys", parts_of<part::keys>},
                             {"lower", change_case<lower>},
                             {"lstrip", strip_method<side::left>},
                             {"removeprefix", without_affix<false>},
                             {"removesuffix", without_affix<true>},
                             {"replace", replace_method},
                             {"rfind", find_method<true>},
                             {"rsplit", split_method<true>},
                             {"rstrip", strip_method<side::right>},
                             {"split", split_method<false>},
                             {"splitlines", split_lines_method},
                             {"startswith", has_affix<false>},
                             {"strip", strip_method<side::both>},
                             {"title", change_case<title>},
                             {"upper", change_case<upper>},
                             {"values", parts_of<part::values>}};

}  // namespace

bool is_method(std::string_view name) { return std::ranges::find(methods, name, &entry::name) != std::end(methods); }

value call_method(render_context& context, const std::string& name, const value& object, const arguments& given) {
  context.count_steps(object.as_text() == nullptr ? 1 : 1 + object.as_text()->size() / 64);
  return std::ranges::find(methods, name, &entry::name)->run(context, object, given);
}

}  // namespace troupe::model::jinja
