// Typed access to config.json. A key of the wrong type or outside its range is written to the problem list and read as
// its smallest value, so that one pass finds everything that is wrong.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "model/problem_list.hpp"

namespace troupe::model {

// Both ends included.
struct count_range {
  std::uint32_t smallest{1};
  std::uint32_t largest{1U << 24};  // no size or count of a model comes near
};

// Refers to document and problem list; both outlive it. @pre document is an object.
class config_reader {
 public:
  config_reader(const nlohmann::json& document, problem_list& problems);

  [[nodiscard]] bool is_null(std::string_view key) const;  // present, and null
  // Present and not null.
  [[nodiscard]] bool has(std::string_view key) const;
  // `fallback` is what the family's config class in transformers takes for a missing key; none: the key is required.
  std::uint32_t count(std::string_view key, std::optional<std::uint32_t> fallback = {}, count_range range = {});
  std::optional<std::uint32_t> count_if_present(std::string_view key, count_range range = {});
  std::vector<std::uint32_t> counts(std::string_view key);  // empty when missing or null
  double number(std::string_view key, double fallback);
  bool flag(std::string_view key, bool fallback);
  // One of `allowed`; anything else becomes a problem and reads as the first of them.
  std::string choice(std::string_view key, std::string_view fallback, std::initializer_list<std::string_view> allowed);

  // The object at `key`, whose keys are then named KEY.NAME; nullopt when missing or null, and a problem when it is
  // something else. Refers to the same document and list.
  std::optional<config_reader> section(std::string_view key);

  // A contradiction between keys, in the caller's words.
  void refuse(std::string_view key, std::string expected, std::string found);

  // Were all counts readable? Without them no tensor can be judged.
  [[nodiscard]] bool sizes_known() const { return sizes_known_; }

 private:
  [[nodiscard]] const nlohmann::json* find(std::string_view key) const;  // nullptr when missing or null
  std::uint32_t checked_count(std::string_view key, const nlohmann::json& value, count_range range);

  const nlohmann::json& document_;
  problem_list& problems_;
  std::string path_;  // of a section: "rope_scaling."
  bool sizes_known_{true};
};

}  // namespace troupe::model
