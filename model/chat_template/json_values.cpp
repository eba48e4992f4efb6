#include "model/chat_template/json_values.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/chat_template/text.hpp"
#include "model/problem_list.hpp"

namespace troupe::model::jinja {
namespace {

using nlohmann::json;

// Of equal keys the last one counts, at the place of the first: what Python's dict does.
entries without_repeats(entries items) {
  std::unordered_map<std::string_view, std::size_t> seen;
  bool repeats = false;
  for (std::size_t i = 0; i < items.size(); ++i) repeats = !seen.emplace(items[i].first, i).second || repeats;
  if (!repeats) return items;
  std::vector<value> last;
  for (const auto& entry : items) last.push_back(entry.second);
  for (std::size_t i = 0; i < items.size(); ++i) last[seen.at(items[i].first)] = items[i].second;
  entries kept;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (seen.at(items[i].first) == i) kept.emplace_back(items[i].first, last[i]);
  }
  return kept;
}

class value_builder final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return put({}); }
  bool boolean(bool v) override { return put(v); }
  bool number_integer(number_integer_t v) override { return put(v); }
  bool number_unsigned(number_unsigned_t v) override {
    if (v > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return put(static_cast<double>(v));
    return put(static_cast<std::int64_t>(v));
  }
  bool number_float(number_float_t v, const string_t& /*written*/) override { return put(v); }
  bool string(string_t& v) override { return put(std::move(v)); }
  bool binary(binary_t& /*v*/) override { return false; }
  bool start_object(std::size_t /*elements*/) override { return open(true); }
  bool start_array(std::size_t /*elements*/) override { return open(false); }
  bool key(string_t& v) override {
    open_.back().key = std::move(v);
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t at, const std::string& /*token*/, const json::exception& reason) override {
    problem = fmt::format("byte {}: {}", at, printable(reason.what()));
    return false;
  }

  value document;
  std::string problem;

 private:
  struct level {
    bool is_object{};
    std::string key;
    std::vector<value> list;
    entries items;
  };

  bool put(value v) {
    if (open_.empty()) {
      document = std::move(v);
    } else if (open_.back().is_object) {
      open_.back().items.emplace_back(std::move(open_.back().key), std::move(v));
    } else {
      open_.back().list.push_back(std::move(v));
    }
    return true;
  }
  bool open(bool is_object) {
    if (open_.size() >= static_cast<std::size_t>(limits::json_depth_max)) {
      problem = fmt::format("nested deeper than {} levels", limits::json_depth_max);
      return false;
    }
    open_.push_back({.is_object = is_object, .key = {}, .list = {}, .items = {}});
    return true;
  }
  bool close() {
    auto done = std::move(open_.back());
    open_.pop_back();
    return put(done.is_object ? value::dict(without_repeats(std::move(done.items)))
                              : value::list(std::move(done.list)));
  }

  std::vector<level> open_;
};

class json_writer {
 public:
  explicit json_writer(const json_style& style) : style_(style) {}

  void write(const value& v) {
    if (v.is_none()) {
      out += "null";
    } else if (const auto* b = v.get<bool>()) {
      out += *b ? "true" : "false";
    } else if (const auto* i = v.get<std::int64_t>()) {
      out += std::to_string(*i);
    } else if (const auto* d = v.get<double>()) {
      out += std::isnan(*d) ? "NaN" : std::isinf(*d) ? (*d < 0 ? "-Infinity" : "Infinity") : to_text(*d);
    } else if (const auto* t = v.as_text()) {
      write_text(*t);
    } else if (const auto* s = v.as_sequence()) {
      write_list(s->items);
    } else if (const auto* m = v.as_dictionary()) {
      write_entries(m->items);
    } else {
      throw failure(fmt::format("tojson: a {} cannot be written as JSON", type_name(v)));
    }
  }

  std::string out;

 private:
  void new_line() {
    if (!style_.indent) return;
    out += '\n';
    for (std::size_t i = 0; i < depth_; ++i) out += *style_.indent;
  }

  void write_list(const std::vector<value>& items) {
    out += '[';
    ++depth_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      new_line();
      write(items[i]);
    }
    --depth_;
    if (!items.empty()) new_line();
    out += ']';
  }

  void write_entries(entries items) {
    if (style_.sort_keys) {
      std::ranges::sort(items, [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out += '{';
    ++depth_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      new_line();
      write_text(items[i].first);
      out += style_.key_separator;
      write(items[i].second);
    }
    --depth_;
    if (!items.empty()) new_line();
    out += '}';
  }

  void write_text(const std::string& s) {
    out += '"';
    for (std::size_t at = 0; at < s.size();) {
      const auto [point, bytes] = decode_at(s, at);
      write_character(std::string_view(s).substr(at, bytes), point);
      at += bytes;
    }
    out += '"';
  }

  void write_character(std::string_view as_is, char32_t point) {
    static constexpr std::string_view named = "\"\\\n\r\t\b\f";
    static constexpr std::string_view letters = "\"\\nrtbf";
    const auto at = point < 0x80 ? named.find(static_cast<char>(point)) : std::string_view::npos;
    if (at != std::string_view::npos) {
      out += '\\';
      out += letters[at];
    } else if (point < 0x20 || (style_.ensure_ascii && point > 0x7f && point < 0x10000)) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(point));
    } else if (style_.ensure_ascii && point >= 0x10000) {
      const auto rest = static_cast<unsigned>(point) - 0x10000U;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800U + (rest >> 10U), 0xdc00U + (rest & 0x3ffU));
    } else {
      out += as_is;
    }
  }

  const json_style& style_;
  std::size_t depth_{};
};

}  // namespace

value parse_json_value(std::string_view json_text) {
  value_builder builder;
  if (!json::sax_parse(json_text.begin(), json_text.end(), &builder)) {
    throw failure("not valid JSON: " + builder.problem);
  }
  return std::move(builder.document);
}

std::string to_json(const value& v, const json_style& style) {
  json_writer writer(style);
  writer.write(v);
  return std::move(writer.out);
}

}  // namespace troupe::model::jinja
