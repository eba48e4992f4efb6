#include "model/chat_template/value.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

std::string repr_of_text(const std::string& s) {
  const char quote = s.find('\'') != std::string::npos && s.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < s.size();) {
    const auto [point, bytes] = decode_at(s, at);
    if (point == static_cast<char32_t>(quote) || point == U'\\') {
      out += '\\';
      out += static_cast<char>(point);
    } else if (point == U'\n') {
      out += "\\n";
    } else if (point == U'\r') {
      out += "\\r";
    } else if (point == U'\t') {
      out += "\\t";
    } else if (point < 0x20 || (point >= 0x7f && point <= 0xa0) || point == 0xad) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(point));
    } else {
      out.append(s, at, bytes);
    }
    at += bytes;
  }
  return out + quote;
}

std::string repr_of_sequence(const sequence& s) {
  std::string out(1, s.is_tuple ? '(' : '[');
  for (std::size_t i = 0; i < s.items.size(); ++i) out += (i == 0 ? "" : ", ") + to_repr(s.items[i]);
  if (s.is_tuple && s.items.size() == 1) out += ',';
  return out + (s.is_tuple ? ')' : ']');
}

std::string repr_of_entries(const entries& items) {
  std::string out = "{";
  for (std::size_t i = 0; i < items.size(); ++i) {
    out += (i == 0 ? "" : ", ") + repr_of_text(items[i].first) + ": " + to_repr(items[i].second);
  }
  return out + '}';
}

bool is_equal(const dictionary& a, const dictionary& b) {
  return a.items.size() == b.items.size() && std::ranges::all_of(a.items, [&b](const auto& entry) {
           const auto* other = b.find(entry.first);
           return other != nullptr && is_equal(entry.second, *other);
         });
}

// Both are numbers.
int order_numbers(const value& a, const value& b) {
  const bool whole = a.get<double>() == nullptr && b.get<double>() == nullptr;
  if (whole) {
    const auto x = to_integer(a, "number");
    const auto y = to_integer(b, "number");
    return x < y ? -1 : x > y ? 1 : 0;
  }
  const auto x = to_double(a);
  const auto y = to_double(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

int order_sequences(const sequence& a, const sequence& b) {
  for (std::size_t i = 0; i < std::min(a.items.size(), b.items.size()); ++i) {
    if (!is_equal(a.items[i], b.items[i])) return order(a.items[i], b.items[i]);
  }
  return a.items.size() < b.items.size() ? -1 : a.items.size() > b.items.size() ? 1 : 0;
}

void add(extent& whole, const value& part) {
  if (part.get<std::shared_ptr<name_space>>() != nullptr || part.get<std::shared_ptr<loop_state>>() != nullptr) {
    throw failure(fmt::format("construct {} inside of a list or dict is not supported", type_name(part)));
  }
  const auto* s = part.as_sequence();
  const auto* d = part.as_dictionary();
  whole.weight += weight_of(part);
  whole.height = std::max(whole.height, 1 + (s != nullptr ? s->size.height : d != nullptr ? d->size.height : 0));
  if (whole.weight > limits::chat_template_value_weight_max) throw failure("the list or dict becomes too large");
  if (whole.height > limits::chat_template_value_height_max) throw failure("the list or dict is nested too deeply");
}

std::shared_ptr<const sequence> make_sequence(std::vector<value> items, bool is_tuple) {
  sequence made{std::move(items), is_tuple};
  for (const auto& item : made.items) add(made.size, item);
  return std::make_shared<const sequence>(std::move(made));
}

}  // namespace

value value::list(std::vector<value> items) { return make_sequence(std::move(items), false); }

value value::tuple(std::vector<value> items) { return make_sequence(std::move(items), true); }

value value::dict(entries items) {
  dictionary made{std::move(items)};
  for (const auto& [key, v] : made.items) add(made.size, v);
  return std::make_shared<const dictionary>(std::move(made));
}

std::uint64_t weight_of(const value& v) {
  if (const auto* t = v.as_text()) return 1 + t->size() / 64;
  if (const auto* s = v.as_sequence()) return s->size.weight;
  if (const auto* d = v.as_dictionary()) return d->size.weight;
  return 1;
}

void failure::locate(std::uint32_t line, std::uint32_t column) {
  if (located_) return;
  located_ = true;
  message_ = fmt::format("{}:{}: {}", line, column, message_);
}

const value* dictionary::find(std::string_view key) const {
  const auto at = std::ranges::find_if(items, [key](const auto& entry) { return entry.first == key; });
  return at == items.end() ? nullptr : &at->second;
}

void name_space::set(const std::string& name, value v) {
  const auto at = std::ranges::find_if(attributes, [&name](const auto& entry) { return entry.first == name; });
  if (at == attributes.end()) {
    attributes.emplace_back(name, std::move(v));
  } else {
    at->second = std::move(v);
  }
}

bool value::is_number() const {
  return get<bool>() != nullptr || get<std::int64_t>() != nullptr || get<double>() != nullptr;
}

std::string_view type_name(const value& v) {
  static constexpr std::string_view names[] = {"undefined", "NoneType", "bool",      "int",      "float", "str",
                                               "list",      "dict",     "Namespace", "function", "loop"};
  if (const auto* s = v.as_sequence(); s != nullptr && s->is_tuple) return "tuple";
  return names[v.content().index()];
}

bool is_true(const value& v) {
  if (v.is_undefined() || v.is_none()) return false;
  if (const auto* b = v.get<bool>()) return *b;
  if (const auto* i = v.get<std::int64_t>()) return *i != 0;
  if (const auto* d = v.get<double>()) return *d != 0;
  if (const auto* t = v.as_text()) return !t->empty();
  if (const auto* s = v.as_sequence()) return !s->items.empty();
  if (const auto* d = v.as_dictionary()) return !d->items.empty();
  return true;
}

bool is_equal(const value& a, const value& b) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == 0 && to_double(a) == to_double(b);
  if (a.content().index() != b.content().index()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (const auto* t = a.as_text()) return *t == *b.as_text();
  if (const auto* s = a.as_sequence()) {
    const auto& other = *b.as_sequence();
    return s->is_tuple == other.is_tuple && s->items.size() == other.items.size() &&
           std::ranges::equal(s->items, other.items, [](const value& x, const value& y) { return is_equal(x, y); });
  }
  if (const auto* d = a.as_dictionary()) return is_equal(*d, *b.as_dictionary());
  if (const auto* n = a.get<std::shared_ptr<name_space>>()) return *n == *b.get<std::shared_ptr<name_space>>();
  return false;
}

int order(const value& a, const value& b) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.as_text() != nullptr && b.as_text() != nullptr) return a.as_text()->compare(*b.as_text());
  if (a.as_sequence() != nullptr && b.as_sequence() != nullptr) {
    return order_sequences(*a.as_sequence(), *b.as_sequence());
  }
  throw failure(fmt::format("'{}' and '{}' have no order", type_name(a), type_name(b)));
}

std::string to_text(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  char shortest[64];
  const auto end = std::to_chars(shortest, shortest + sizeof shortest, v, std::chars_format::scientific).ptr;
  const std::string_view scientific(shortest, static_cast<std::size_t>(end - shortest));
  const auto mark = scientific.find('e');
  const int exponent = std::stoi(std::string(scientific.substr(mark + 1)));
  if (exponent < -4 || exponent >= 16) return std::string(scientific);  // where Python changes over, too
  const auto fixed_end = std::to_chars(shortest, shortest + sizeof shortest, v, std::chars_format::fixed).ptr;
  std::string fixed(shortest, fixed_end);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

std::string to_text(const value& v) {
  if (const auto* t = v.as_text()) return *t;
  if (v.is_undefined()) return "";
  return to_repr(v);
}

std::string to_repr(const value& v) {
  if (v.is_undefined()) return "Undefined";
  if (v.is_none()) return "None";
  if (const auto* b = v.get<bool>()) return *b ? "True" : "False";
  if (const auto* i = v.get<std::int64_t>()) return std::to_string(*i);
  if (const auto* d = v.get<double>()) return to_text(*d);
  if (const auto* t = v.as_text()) return repr_of_text(*t);
  if (const auto* s = v.as_sequence()) return repr_of_sequence(*s);
  if (const auto* d = v.as_dictionary()) return repr_of_entries(d->items);
  throw failure(fmt::format("a {} has no text", type_name(v)));
}

double to_double(const value& v) {
  if (const auto* b = v.get<bool>()) return *b ? 1 : 0;
  if (const auto* i = v.get<std::int64_t>()) return static_cast<double>(*i);
  if (const auto* d = v.get<double>()) return *d;
  throw failure(fmt::format("'{}' is no number", type_name(v)));
}

std::int64_t to_integer(const value& v, std::string_view what) {
  if (const auto* b = v.get<bool>()) return *b ? 1 : 0;
  if (const auto* i = v.get<std::int64_t>()) return *i;
  throw failure(fmt::format("{}: '{}' is no integer", what, type_name(v)));
}

}  // namespace troupe::model::jinja
