#include "model/chat_template/arithmetic.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

bool is_whole(const value& a, const value& b) {
  return a.is_number() && b.is_number() && a.get<double>() == nullptr && b.get<double>() == nullptr;
}

[[noreturn]] void refuse(const std::string& sign, const value& a, const value& b) {
  for (const auto* v : {&a, &b}) {
    if (const auto* missing = v->get<undefined>()) throw failure(fmt::format("'{}' is undefined", missing->name));
  }
  throw failure(fmt::format("'{}' does not go with '{}' and '{}'", sign, type_name(a), type_name(b)));
}

std::int64_t checked(bool overflow, std::int64_t number) {
  if (overflow) throw failure("the number is too large");
  return number;
}

// Rounds towards minus infinity, as Python does.
std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  if (b == -1) return checked(a == std::numeric_limits<std::int64_t>::min(), a == 0 ? 0 : -a);
  const auto quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  std::int64_t out = 1;
  if (exponent > 64 && base != 0 && base != 1 && base != -1) checked(true, 0);
  for (std::int64_t i = 0; i < (exponent > 64 ? exponent % 2 + 2 : exponent); ++i) {
    checked(__builtin_mul_overflow(out, base, &out), 0);
  }
  return out;
}

value whole_numbers(const std::string& sign, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (sign == "+") return checked(__builtin_add_overflow(a, b, &out), out), value(out);
  if (sign == "-") return checked(__builtin_sub_overflow(a, b, &out), out), value(out);
  if (sign == "*") return checked(__builtin_mul_overflow(a, b, &out), out), value(out);
  if (sign == "**") {
    return b >= 0 ? value(power(a, b)) : value(std::pow(static_cast<double>(a), static_cast<double>(b)));
  }
  if (b == 0) throw failure("division by zero");
  if (sign == "/") return static_cast<double>(a) / static_cast<double>(b);
  const auto quotient = floor_divide(a, b);
  return sign == "//" ? quotient : a - quotient * b;
}

value numbers(const std::string& sign, double a, double b) {
  if (sign == "+") return a + b;
  if (sign == "-") return a - b;
  if (sign == "*") return a * b;
  if (sign == "**") return std::pow(a, b);
  if (b == 0) throw failure("division by zero");
  if (sign == "/") return a / b;
  if (sign == "//") return std::floor(a / b);
  const auto rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

value repeat(render_context& context, const std::string& text, std::int64_t times) {
  const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(times, 0));
  if (!text.empty() && count > limits::chat_template_output_bytes_max / text.size()) {
    throw failure("the repeated text is too long");
  }
  std::string out;
  for (std::uint64_t i = 0; !text.empty() && i < count; ++i) out += text;
  return context.made(std::move(out));
}

struct range {
  std::int64_t from;
  std::int64_t to;
  std::int64_t step;
};

// Python's slice.indices().
range bounds_of(std::int64_t size, const value& from, const value& to, const value& step) {
  range out{0, 0, step.is_none() ? 1 : to_integer(step, "slice")};
  if (out.step == 0) throw failure("slice: the step is 0");
  const auto lowest = out.step < 0 ? std::int64_t{-1} : std::int64_t{0};
  const auto highest = out.step < 0 ? size - 1 : size;
  const auto clip = [&](const value& bound, std::int64_t otherwise) {
    if (bound.is_none()) return otherwise;
    const auto at = to_integer(bound, "slice");
    if (at < 0) return at < -size ? lowest : std::max(at + size, lowest);
    return std::min(at, highest);
  };
  out.from = clip(from, out.step < 0 ? highest : lowest);
  out.to = clip(to, out.step < 0 ? lowest : highest);
  return out;
}

template <class List>
List take(const List& all, const range& r) {
  List out;
  if (r.step > 0) {
    for (auto at = r.from; at < r.to; at += std::min(r.step, r.to - at))
      out.push_back(all[static_cast<std::size_t>(at)]);
  } else {
    for (auto at = r.from; at > r.to; at += std::max(r.step, r.to - at))
      out.push_back(all[static_cast<std::size_t>(at)]);
  }
  return out;
}

}  // namespace

value calculate(render_context& context, const std::string& sign, const value& a, const value& b) {
  if (sign == "~") return context.made(to_text(a) + to_text(b));
  if (is_whole(a, b)) return whole_numbers(sign, to_integer(a, sign), to_integer(b, sign));
  if (a.is_number() && b.is_number()) return numbers(sign, to_double(a), to_double(b));
  if (sign == "+" && a.as_text() != nullptr && b.as_text() != nullptr) return context.made(*a.as_text() + *b.as_text());
  if (sign == "+" && a.as_sequence() != nullptr && b.as_sequence() != nullptr &&
      a.as_sequence()->is_tuple == b.as_sequence()->is_tuple) {
    auto items = a.as_sequence()->items;
    items.insert(items.end(), b.as_sequence()->items.begin(), b.as_sequence()->items.end());
    context.count_steps(items.size());
    return a.as_sequence()->is_tuple ? value::tuple(std::move(items)) : value::list(std::move(items));
  }
  if (sign == "*" && a.as_text() != nullptr && b.is_number()) return repeat(context, *a.as_text(), to_integer(b, "*"));
  if (sign == "*" && b.as_text() != nullptr && a.is_number()) return repeat(context, *b.as_text(), to_integer(a, "*"));
  refuse(sign, a, b);
}

value negative(const value& v) {
  if (v.get<double>() != nullptr) return -to_double(v);
  return whole_numbers("-", 0, to_integer(v, "-"));
}

value positive(const value& v) {
  if (v.get<double>() != nullptr) return v;
  return to_integer(v, "+");
}

bool holds(render_context& context, const std::string& word, const value& a, const value& b) {
  context.count_steps((weight_of(a) + weight_of(b)) / 8);
  if (word == "==") return is_equal(a, b);
  if (word == "!=") return !is_equal(a, b);
  if (word == "in") return contains(context, b, a);
  if (word == "not in") return !contains(context, b, a);
  if (a.is_undefined() || b.is_undefined()) refuse(word, a, b);
  const auto sign = order(a, b);
  if (word == "<") return sign < 0;
  if (word == "<=") return sign <= 0;
  if (word == ">") return sign > 0;
  return sign >= 0;
}

value slice(render_context& context, const value& v, const value& from, const value& to, const value& step) {
  if (const auto* t = v.as_text()) {
    context.count_steps(t->size() / 16);
    const auto all = characters(*t);
    std::string out;
    for (const auto one : take(all, bounds_of(static_cast<std::int64_t>(all.size()), from, to, step))) out += one;
    return context.made(std::move(out));
  }
  if (const auto* s = v.as_sequence()) {
    auto items = take(s->items, bounds_of(static_cast<std::int64_t>(s->items.size()), from, to, step));
    context.count_steps(items.size());
    return s->is_tuple ? value::tuple(std::move(items)) : value::list(std::move(items));
  }
  if (const auto* missing = v.get<undefined>()) throw failure(fmt::format("'{}' is undefined", missing->name));
  throw failure(fmt::format("'{}' cannot be cut", type_name(v)));
}

}  // namespace troupe::model::jinja
