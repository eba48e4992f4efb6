#include "model/config_reader.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace troupe::model {
namespace {

std::string describe(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

config_reader::config_reader(const nlohmann::json& document, problem_list& problems)
    : document_(document), problems_(problems) {}

const nlohmann::json* config_reader::find(std::string_view key) const {
  auto found = document_.find(key);
  return found == document_.end() || found->is_null() ? nullptr : &*found;
}

bool config_reader::is_null(std::string_view key) const {
  auto found = document_.find(key);
  return found != document_.end() && found->is_null();
}

bool config_reader::has(std::string_view key) const { return find(key) != nullptr; }

std::uint32_t config_reader::checked_count(std::string_view key, const nlohmann::json& value, count_range range) {
  if (value.is_number_unsigned()) {
    auto number = value.get<std::uint64_t>();
    if (number >= range.smallest && number <= range.largest) return static_cast<std::uint32_t>(number);
  }
  refuse(key, fmt::format("an integer from {} to {}", range.smallest, range.largest), describe(value));
  sizes_known_ = false;
  return range.smallest;
}

std::uint32_t config_reader::count(std::string_view key, std::optional<std::uint32_t> fallback, count_range range) {
  if (const auto* value = find(key)) return checked_count(key, *value, range);
  if (fallback) return *fallback;
  refuse(key, fmt::format("an integer from {} to {}", range.smallest, range.largest), "missing");
  sizes_known_ = false;
  return range.smallest;
}

std::optional<std::uint32_t> config_reader::count_if_present(std::string_view key, count_range range) {
  const auto* value = find(key);
  if (value == nullptr) return std::nullopt;
  return checked_count(key, *value, range);
}

std::vector<std::uint32_t> config_reader::counts(std::string_view key) {
  std::vector<std::uint32_t> numbers;
  const auto* value = find(key);
  if (value == nullptr) return numbers;
  if (!value->is_array()) {
    refuse(key, "a list of block numbers", describe(*value));
    sizes_known_ = false;
    return numbers;
  }
  for (const auto& element : *value) numbers.push_back(checked_count(key, element, {0}));
  return numbers;
}

double config_reader::number(std::string_view key, double fallback) {
  const auto* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_number()) return value->get<double>();  // JSON has no infinities
  refuse(key, "a number", describe(*value));
  return fallback;
}

bool config_reader::flag(std::string_view key, bool fallback) {
  const auto* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  refuse(key, "true or false", describe(*value));
  return fallback;
}

std::string config_reader::choice(std::string_view key, std::string_view fallback,
                                  std::initializer_list<std::string_view> allowed) {
  const auto* value = find(key);
  if (value == nullptr) return std::string{fallback};
  if (value->is_string() && std::ranges::find(allowed, value->get_ref<const std::string&>()) != allowed.end()) {
    return value->get<std::string>();
  }
  refuse(key, fmt::format("one of: {}", fmt::join(allowed, ", ")), describe(*value));
  return std::string{*allowed.begin()};
}

std::optional<config_reader> config_reader::section(std::string_view key) {
  const auto* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) {
    refuse(key, "an object", describe(*value));
    return std::nullopt;
  }
  config_reader inner{*value, problems_};
  inner.path_ = fmt::format("{}{}.", path_, key);
  return inner;
}

void config_reader::refuse(std::string_view key, std::string expected, std::string found) {
  problems_.add(fmt::format("config.json: {}{}", path_, key), std::move(expected), std::move(found));
}

}  // namespace troupe::model
