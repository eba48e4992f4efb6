#include "router_node/shell/openai_fields.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/problem_list.hpp"

namespace troupe::router {
namespace {

using nlohmann::json;

std::string shown(const json& v) {
  return model::printable(v.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 64));
}

// A JSON number that is a whole one: 1, and 1.0 as some clients write it.
std::optional<std::int64_t> whole_of(const json& v) {
  if (v.is_number_unsigned()) {
    const auto number = v.get<std::uint64_t>();
    return number > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(number);
  }
  if (v.is_number_integer()) return v.get<std::int64_t>();
  if (!v.is_number_float()) return std::nullopt;
  const auto number = v.get<double>();
  if (std::trunc(number) != number || std::abs(number) > 9e15) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

}  // namespace

const json* field_reader::take(const std::string& name) {
  taken_.insert(name);
  const auto at = object_.find(name);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

void field_reader::refuse(std::string param, std::string message, std::string code, errc reason) {
  if (problem_) return;
  problem_ = request_refusal{{reason, std::move(message)}, std::move(param), std::move(code)};
}

bool field_reader::flag(const std::string& name, bool otherwise) {
  const auto* v = take(name);
  if (v == nullptr) return otherwise;
  if (v->is_boolean()) return v->get<bool>();
  refuse(name, fmt::format("{}: true or false is needed, not {}", name, shown(*v)));
  return otherwise;
}

float field_reader::number(const std::string& name, double low, double high, float otherwise) {
  const auto* v = take(name);
  if (v == nullptr) return otherwise;
  if (v->is_number()) {
    const auto number = v->get<double>();
    if (number >= low && number <= high) return static_cast<float>(number);
  }
  refuse(name, fmt::format("{}: a number from {} to {} is needed, not {}", name, low, high, shown(*v)));
  return otherwise;
}

std::uint64_t field_reader::whole(const std::string& name, std::int64_t low, std::int64_t high,
                                  std::uint64_t otherwise) {
  const auto* v = take(name);
  if (v == nullptr) return otherwise;
  const auto number = whole_of(*v);
  if (number && *number >= low && *number <= high) return static_cast<std::uint64_t>(*number);
  refuse(name, fmt::format("{}: a whole number from {} to {} is needed, not {}", name, low, high, shown(*v)));
  return otherwise;
}

std::string field_reader::text(const std::string& name) {
  const auto* v = take(name);
  if (v == nullptr) return {};
  if (v->is_string()) return v->get<std::string>();
  refuse(name, fmt::format("{}: a string is needed, not {}", name, shown(*v)));
  return {};
}

std::vector<token_number> field_reader::tokens(const std::string& name, std::size_t count_max,
                                               std::uint32_t vocabulary) {
  const auto* v = take(name);
  return v == nullptr ? std::vector<token_number>{} : tokens(name, *v, count_max, vocabulary);
}

std::vector<token_number> field_reader::tokens(const std::string& name, const json& list, std::size_t count_max,
                                               std::uint32_t vocabulary) {
  if (!list.is_array()) {
    refuse(name, fmt::format("{}: a list of token ids is needed, not {}", name, shown(list)));
    return {};
  }
  if (list.size() > count_max) {
    refuse(name, fmt::format("{}: at most {} token ids are accepted, not {}", name, count_max, list.size()));
    return {};
  }
  std::vector<token_number> out;
  out.reserve(list.size());
  for (const auto& one : list) {
    const auto number = whole_of(one);
    if (!number || *number < 0 || *number >= static_cast<std::int64_t>(vocabulary)) {
      refuse(name, fmt::format("{}: token id {} at position {} is not below the vocabulary of {}", name, shown(one),
                               out.size(), vocabulary));
      return {};
    }
    out.push_back(static_cast<token_number>(*number));
  }
  return out;
}

std::vector<std::string> field_reader::ignored() const {
  std::vector<std::string> names;
  for (const auto& [name, v] : object_.items()) {
    if (!taken_.contains(name)) names.push_back(model::printable(name).substr(0, 64));
    if (names.size() == limits::ignored_fields_logged_max) break;
  }
  return names;
}

}  // namespace troupe::router
