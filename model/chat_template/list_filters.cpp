#include "model/chat_template/list_filters.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <optional>

#include <fmt/format.h>

#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

bool flag(const value* given, bool otherwise) { return given == nullptr ? otherwise : is_true(*given); }

// "a.b.0" of an item: attributes and items one after the other.
value follow(render_context& context, value item, const std::string& path) {
  for (const auto& step : split(path, ".", -1)) {
    std::int64_t index = 0;
    const auto [stop, problem] = std::from_chars(step.data(), step.data() + step.size(), index);
    const bool is_index = !step.empty() && problem == std::errc() && stop == step.data() + step.size();
    item = find_item(context, item, is_index ? value(index) : value(step));
  }
  return item;
}

value part_of(render_context& context, const value& item, const value* attribute) {
  if (attribute == nullptr || attribute->is_none()) return item;
  if (attribute->as_text() == nullptr) return find_item(context, item, *attribute);
  return follow(context, item, *attribute->as_text());
}

// Jinja2 compares without regard to case unless asked.
value without_case(const value& v, bool case_sensitive) {
  return case_sensitive || v.as_text() == nullptr ? v : value(lower(*v.as_text()));
}

value first_item(render_context& context, const value& input, const arguments& /*given*/) {
  const auto items = iterate(context, input);
  return items.empty() ? value(undefined{"first"}) : items.front();
}

value last_item(render_context& context, const value& input, const arguments& /*given*/) {
  const auto items = iterate(context, input);
  return items.empty() ? value(undefined{"last"}) : items.back();
}

value items_of(render_context& context, const value& input, const arguments& /*given*/) {
  if (input.is_undefined()) return value::list({});
  if (input.as_dictionary() == nullptr) throw failure(fmt::format("items: '{}' is no mapping", type_name(input)));
  return call_method(context, "items", input, {});
}

value join(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("join", {"d", "attribute"});
  const auto between = bound[0] == nullptr ? std::string() : to_text(*bound[0]);
  std::string out;
  bool first = true;
  for (const auto& item : iterate(context, input)) {
    if (!first) out += between;
    first = false;
    out += to_text(part_of(context, item, bound[1]));
    if (out.size() > context.bytes_left) break;
  }
  return context.made(std::move(out));
}

value as_list(render_context& context, const value& input, const arguments& /*given*/) {
  return value::list(iterate(context, input));
}

value reverse(render_context& context, const value& input, const arguments& /*given*/) {
  auto items = iterate(context, input);
  std::ranges::reverse(items);
  if (input.as_text() == nullptr) return value::list(std::move(items));
  std::string out;
  for (const auto& item : items) out += *item.as_text();
  return context.made(std::move(out));
}

value extreme(render_context& context, const value& input, const arguments& given, int wanted) {
  const auto bound = given.bind(wanted < 0 ? "min" : "max", {"case_sensitive", "attribute"});
  const auto items = iterate(context, input);
  if (items.empty()) return undefined{wanted < 0 ? "min" : "max"};
  const auto key = [&](const value& item) {
    return without_case(part_of(context, item, bound[1]), flag(bound[0], false));
  };
  const auto* best = &items.front();
  for (const auto& item : items) {
    if (order(key(item), key(*best)) * wanted > 0) best = &item;
  }
  return *best;
}

value minimum(render_context& context, const value& input, const arguments& given) {
  return extreme(context, input, given, -1);
}

value maximum(render_context& context, const value& input, const arguments& given) {
  return extreme(context, input, given, 1);
}

value sum(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("sum", {"attribute", "start"});
  const value start = bound[1] == nullptr ? value(std::int64_t{0}) : *bound[1];
  bool whole = start.get<double>() == nullptr;
  double total = to_double(start);
  for (const auto& item : iterate(context, input)) {
    const auto part = part_of(context, item, bound[0]);
    whole = whole && part.get<double>() == nullptr;
    total += to_double(part);
  }
  if (whole && std::abs(total) > 9e15) throw failure("sum: the number is too large");
  return whole ? value(static_cast<std::int64_t>(total)) : value(total);
}

std::vector<value> sorted(render_context& context, std::vector<value> items, bool reversed,
                          const std::function<value(const value&)>& key) {
  std::vector<std::pair<value, value>> keyed;
  for (auto& item : items) keyed.emplace_back(key(item), item);
  const auto before = [&](const auto& a, const auto& b) {
    context.count_steps(weight_of(a.first));
    return reversed ? order(b.first, a.first) < 0 : order(a.first, b.first) < 0;
  };
  std::ranges::stable_sort(keyed, before);
  for (std::size_t i = 0; i < keyed.size(); ++i) items[i] = std::move(keyed[i].second);
  return items;
}

value sort(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("sort", {"reverse", "case_sensitive", "attribute"});
  const auto key = [&](const value& item) {
    return without_case(part_of(context, item, bound[2]), flag(bound[1], false));
  };
  return value::list(sorted(context, iterate(context, input), flag(bound[0], false), key));
}

value sort_dict(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("dictsort", {"case_sensitive", "by", "reverse"});
  const bool by_value = bound[1] != nullptr && to_text(*bound[1]) == "value";
  const auto key = [&](const value& pair) {
    return without_case(pair.as_sequence()->items[by_value ? 1 : 0], flag(bound[0], false));
  };
  const auto pairs = items_of(context, input, {});
  return value::list(sorted(context, pairs.as_sequence()->items, flag(bound[2], false), key));
}

value unique(render_context& context, const value& input, const arguments& given) {
  const auto bound = given.bind("unique", {"case_sensitive", "attribute"});
  std::vector<value> seen;
  std::vector<value> kept;
  for (const auto& item : iterate(context, input)) {
    const auto key = without_case(part_of(context, item, bound[1]), flag(bound[0], false));
    context.count_steps(seen.size() * weight_of(key));
    if (std::ranges::any_of(seen, [&key](const value& other) { return is_equal(other, key); })) continue;
    seen.push_back(key);
    kept.push_back(item);
  }
  return value::list(std::move(kept));
}

value map(render_context& context, const value& input, const arguments& given) {
  std::vector<value> out;
  if (given.positional.empty()) {
    const auto bound = given.bind("map", {"attribute", "default"});
    if (bound[0] == nullptr) throw failure("map needs the name of a filter, or an attribute");
    for (const auto& item : iterate(context, input)) {
      auto part = part_of(context, item, bound[0]);
      out.push_back(part.is_undefined() && bound[1] != nullptr ? *bound[1] : std::move(part));
    }
    return value::list(std::move(out));
  }
  const auto name = to_text(given.positional.front());
  const arguments rest{{given.positional.begin() + 1, given.positional.end()}, given.named};
  for (const auto& item : iterate(context, input)) out.push_back(apply_filter(context, name, item, rest));
  return value::list(std::move(out));
}

// select, reject, selectattr, rejectattr: the items whose value (or attribute) passes a test, or is true.
template <bool by_attribute, bool wanted>
value choose(render_context& context, const value& input, const arguments& given) {
  std::size_t next = 0;
  if (by_attribute && given.positional.empty()) throw failure("selectattr needs the name of an attribute");
  const value* attribute = by_attribute ? &given.positional[next++] : nullptr;
  const std::optional<std::string> test =
      next < given.positional.size() ? std::optional(to_text(given.positional[next++])) : std::nullopt;
  const arguments rest{{given.positional.begin() + static_cast<std::ptrdiff_t>(next), given.positional.end()},
                       given.named};
  std::vector<value> kept;
  for (const auto& item : iterate(context, input)) {
    const auto subject = part_of(context, item, attribute);
    const bool passes = test ? apply_test(context, *test, subject, rest) : is_true(subject);
    if (passes == wanted) kept.push_back(item);
  }
  return value::list(std::move(kept));
}

constexpr filter_entry filters[] = {{"dictsort", sort_dict},
                                    {"first", first_item},
                                    {"items", items_of},
                                    {"join", join},
                                    {"last", last_item},
                                    {"list", as_list},
                                    {"map", map},
                                    {"max", maximum},
                                    {"min", minimum},
                                    {"reject", choose<false, false>},
                                    {"rejectattr", choose<true, false>},
                                    {"reverse", reverse},
                                    {"select", choose<false, true>},
                                    {"selectattr", choose<true, true>},
                                    {"sort", sort},
                                    {"sum", sum},
                                    {"unique", unique}};

}  // namespace

const filter_entry* find_list_filter(std::string_view name) {
  const auto* at = std::ranges::find(filters, name, &filter_entry::name);
  return at == std::end(filters) ? nullptr : at;
}

}  // namespace troupe::model::jinja
