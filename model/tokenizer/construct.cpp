#include "model/tokenizer/construct.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {

using nlohmann::json;

namespace {

std::string shown(const json& value) { return printable(value.dump(-1, ' ', false, json::error_handler_t::replace)); }

}  // namespace

void reading::grow(const std::string& where, double factor) {
  growth *= factor;
  if (growth > limits::text_growth_max && growth / factor <= limits::text_growth_max) {
    problems.add(where, fmt::format("a text at most {} times as long", limits::text_growth_max),
                 fmt::format("up to {:g} times", growth));
  }
}

construct::construct(const json& object, std::string where, reading& state)
    : object_(object.is_object() ? &object : nullptr), where_(std::move(where)), state_(state) {
  if (object_ == nullptr) state_.problems.add(where_, "an object", shown(object));
}

const json* construct::value(std::string_view key) const {
  if (object_ == nullptr) return nullptr;
  auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool construct::has(std::string_view key) const { return value(key) != nullptr; }

std::string construct::type() const {
  const auto* found = value("type");
  return found != nullptr && found->is_string() ? found->get<std::string>() : std::string{};
}

bool construct::flag(std::string_view key, std::optional<bool> fallback) {
  const auto* found = value(key);
  if (found != nullptr && found->is_boolean()) return found->get<bool>();
  if (found != nullptr || !fallback) refuse(key, "true or false", found != nullptr ? shown(*found) : "nothing");
  return fallback.value_or(false);
}

std::string construct::text(std::string_view key, std::optional<std::string> fallback) {
  const auto* found = value(key);
  if (found != nullptr && found->is_string()) return found->get<std::string>();
  if (found != nullptr || !fallback) refuse(key, "a string", found != nullptr ? shown(*found) : "nothing");
  return fallback.value_or(std::string{});
}

std::uint32_t construct::count(std::string_view key, std::uint32_t largest) {
  const auto* found = value(key);
  if (found != nullptr && found->is_number_unsigned() && found->get<std::uint64_t>() <= largest) {
    return found->get<std::uint32_t>();
  }
  refuse(key, fmt::format("a number up to {}", largest), found != nullptr ? shown(*found) : "nothing");
  return 0;
}

char32_t construct::character(std::string_view key) {
  auto found = text(key);
  std::size_t end = 0;
  auto first = found.empty() ? U' ' : take_character(found, end);
  if (end == 0 || end != found.size()) refuse(key, "one character", printable(found));
  return first;
}

pattern construct::search(std::string_view key) {
  const auto* found = value(key);
  if (found != nullptr && found->is_object() && found->size() == 1 && found->begin()->is_string()) {
    auto kind = found->begin().key();
    auto expression = found->begin()->get<std::string>();
    if (kind == "String") return pattern::literal(std::move(expression));
    if (kind == "Regex") {
      auto made = pattern::regex(expression);
      if (made) return std::move(*made);
      refuse(key, "a pattern within the supported syntax", made.error().message);
      return pattern::literal({});
    }
  }
  refuse(key, "{\"String\": ...} or {\"Regex\": ...}", found != nullptr ? shown(*found) : "nothing");
  return pattern::literal({});
}

std::vector<construct> construct::list(std::string_view key) {
  std::vector<construct> elements;
  const auto* found = value(key);
  if (found == nullptr || !found->is_array()) {
    refuse(key, "a list", found != nullptr ? shown(*found) : "nothing");
    return elements;
  }
  elements.reserve(found->size());
  for (std::size_t i = 0; i < found->size(); ++i) {
    elements.emplace_back((*found)[i], fmt::format("{}{}{}[{}]", where_, where_.empty() ? "" : ".", key, i), state_);
  }
  return elements;
}

void construct::only(std::initializer_list<std::string_view> keys) {
  if (object_ == nullptr) return;
  for (const auto& [key, unused] : object_->items()) {
    if (key == "type" || std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    refuse(key, "no such key", shown(unused));
  }
}

void construct::refuse(std::string_view key, std::string expected, std::string found) {
  state_.problems.add(fmt::format("{}{}{}", where_, where_.empty() ? "" : ".", printable(key)), std::move(expected),
                      std::move(found));
}

void construct::refuse_type(std::string_view known) {
  if (object_ == nullptr) return;  // said already
  const auto* found = value("type");
  refuse("type", fmt::format("one of {}", known), found != nullptr ? shown(*found) : "nothing");
}

double replacement_growth(const pattern& searched, std::string_view content) {
  auto added = static_cast<double>(content.size());
  auto shortest = static_cast<double>(searched.match_bytes_min());
  if (shortest > 0) return std::max(1.0, added / shortest);
  return 1 + 2 * added;  // an expression may match nothing before every byte and at the end
}

}  // namespace troupe::model
