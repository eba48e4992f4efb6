// Reads one object of tokenizer.json, a "construct": named by its "type", with a fixed set of keys. Whatever is not
// understood becomes a row of the problem list and reads as a harmless value, so that one pass finds everything.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "model/problem_list.hpp"
#include "model/tokenizer/pattern.hpp"

namespace troupe::model {

struct reading {
  problem_list& problems;
  // By what factor the constructs read so far can lengthen a text at most; see limits::text_growth_max.
  double growth{1};

  void grow(const std::string& where, double factor);
};

class construct {
 public:
  // `where` names the object in messages: "pre_tokenizer.pretokenizers[1]". `state` outlives the reader.
  construct(const nlohmann::json& object, std::string where, reading& state);

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] reading& state() const { return state_; }
  [[nodiscard]] std::string type() const;              // empty when missing
  [[nodiscard]] bool has(std::string_view key) const;  // present and not null

  // No fallback: the key is required.
  bool flag(std::string_view key, std::optional<bool> fallback = {});
  std::string text(std::string_view key, std::optional<std::string> fallback = {});
  std::uint32_t count(std::string_view key, std::uint32_t largest);
  char32_t character(std::string_view key);  // a string of one character
  // {"String": "..."} or {"Regex": "..."}
  pattern search(std::string_view key);
  // The elements of a list, or the value of an object's key, each with its own name.
  std::vector<construct> list(std::string_view key);
  const nlohmann::json* value(std::string_view key) const;  // nullptr when missing or null

  // The keys that this construct has besides "type"; any other is a problem.
  void only(std::initializer_list<std::string_view> keys);
  void refuse(std::string_view key, std::string expected, std::string found);
  // "type" is none of those that are known.
  void refuse_type(std::string_view known);

 private:
  const nlohmann::json* object_;  // nullptr: it was no object
  std::string where_;
  reading& state_;
};

// How much longer a text can become when every match is replaced by `content`.
[[nodiscard]] double replacement_growth(const pattern& searched, std::string_view content);

}  // namespace troupe::model
