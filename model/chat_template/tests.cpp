// Tests: what stands behind `is`.
#include <algorithm>

#include <fmt/format.h>

#include "model/chat_template/library.hpp"
#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

bool is_identical(const value& a, const value& b) {
  return a.content().index() == b.content().index() && is_equal(a, b);
}

// "lower" and "upper": there are letters, and all are of that case.
bool has_case(const value& v, std::string (*change)(std::string_view), std::string (*other)(std::string_view)) {
  const auto s = to_text(v);
  return change(s) == s && other(s) != s;
}

bool is_integer(const value& v) { return v.get<std::int64_t>() != nullptr; }

using test = bool (*)(render_context&, const value& v, const value* argument);

struct entry {
  std::string_view name;
  bool has_argument;
  test run;
};

using context_ref = render_context&;

// clang-format off
constexpr entry tests[] = {
    {"boolean", false, [](context_ref, const value& v, const value*) { return v.get<bool>() != nullptr; }},
    {"callable", false, [](context_ref, const value& v, const value*) { return v.get<std::shared_ptr<const callable>>() != nullptr; }},
    {"defined", false, [](context_ref, const value& v, const value*) { return !v.is_undefined(); }},
    {"divisibleby", true, [](context_ref, const value& v, const value* n) {
       const auto divisor = to_integer(*n, "divisibleby");
       if (divisor == 0) throw failure("divisibleby 0");
       return to_integer(v, "divisibleby") % divisor == 0; }},
    {"eq", true, [](context_ref, const value& v, const value* other) { return is_equal(v, *other); }},
    {"equalto", true, [](context_ref, const value& v, const value* other) { return is_equal(v, *other); }},
    {"==", true, [](context_ref, const value& v, const value* other) { return is_equal(v, *other); }},
    {"even", false, [](context_ref, const value& v, const value*) { return to_integer(v, "even") % 2 == 0; }},
    {"false", false, [](context_ref, const value& v, const value*) { return v.get<bool>() != nullptr && !*v.get<bool>(); }},
    {"float", false, [](context_ref, const value& v, const value*) { return v.get<double>() != nullptr; }},
    {"ge", true, [](context_ref, const value& v, const value* other) { return order(v, *other) >= 0; }},
    {"gt", true, [](context_ref, const value& v, const value* other) { return order(v, *other) > 0; }},
    {"greaterthan", true, [](context_ref, const value& v, const value* other) { return order(v, *other) > 0; }},
    {"in", true, [](context_ref c, const value& v, const value* other) { return contains(c, *other, v); }},
    {"integer", false, [](context_ref, const value& v, const value*) { return is_integer(v); }},
    {"iterable", false, [](context_ref, const value& v, const value*) {
       return v.is_undefined() || v.as_text() != nullptr || v.as_sequence() != nullptr || v.as_dictionary() != nullptr; }},
    {"le", true, [](context_ref, const value& v, const value* other) { return order(v, *other) <= 0; }},
    {"lessthan", true, [](context_ref, const value& v, const value* other) { return order(v, *other) < 0; }},
    {"lower", false, [](context_ref, const value& v, const value*) { return has_case(v, lower, upper); }},
    {"lt", true, [](context_ref, const value& v, const value* other) { return order(v, *other) < 0; }},
    {"mapping", false, [](context_ref, const value& v, const value*) { return v.as_dictionary() != nullptr; }},
    {"ne", true, [](context_ref, const value& v, const value* other) { return !is_equal(v, *other); }},
    {"!=", true, [](context_ref, const value& v, const value* other) { return !is_equal(v, *other); }},
    {"none", false, [](context_ref, const value& v, const value*) { return v.is_none(); }},
    {"number", false, [](context_ref, const value& v, const value*) { return v.is_number(); }},
    {"odd", false, [](context_ref, const value& v, const value*) { return to_integer(v, "odd") % 2 != 0; }},
    {"sameas", true, [](context_ref, const value& v, const value* other) { return is_identical(v, *other); }},
    {"sequence", false, [](context_ref, const value& v, const value*) {
       return v.is_undefined() || v.as_text() != nullptr || v.as_sequence() != nullptr || v.as_dictionary() != nullptr; }},
    {"string", false, [](context_ref, const value& v, const value*) { return v.as_text() != nullptr; }},
    {"true", false, [](context_ref, const value& v, const value*) { return v.get<bool>() != nullptr && *v.get<bool>(); }},
    {"undefined", false, [](context_ref, const value& v, const value*) { return v.is_undefined(); }},
    {"upper", false, [](context_ref, const value& v, const value*) { return has_case(v, upper, lower); }}};
// clang-format on

const entry* find(std::string_view name) {
  const auto* at = std::ranges::find(tests, name, &entry::name);
  return at == std::end(tests) ? nullptr : at;
}

}  // namespace

bool is_test(std::string_view name) { return find(name) != nullptr; }

bool test_has_argument(std::string_view name) { return find(name)->has_argument; }

bool apply_test(render_context& context, const std::string& name, const value& input, const arguments& given) {
  const auto* known = find(name);
  if (known == nullptr) throw failure(fmt::format("construct test '{}' is not supported", name));
  context.count_steps(1);
  const auto* argument = known->has_argument ? given.bind(name, {"other"})[0] : (void(given.bind(name, {})), nullptr);
  if (known->has_argument && argument == nullptr) throw failure(fmt::format("test '{}' needs a value", name));
  return known->run(context, input, argument);
}

}  // namespace troupe::model::jinja
