// Reads the fields of a request's JSON object: types, ranges and names in the words that a client understands. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::router {

// Why a request is refused, and by which field of it.
struct request_refusal {
  error reason;
  std::string param;  // empty: none
  std::string code;   // of the OpenAI error object; empty: the reason's
};

// Every reader gives the default when the field is absent or null, and when it is wrong; the first problem is kept.
class field_reader {
 public:
  explicit field_reader(const nlohmann::json& object) : object_(object) {}

  // nullptr: absent or null. Counts as known.
  [[nodiscard]] const nlohmann::json* take(const std::string& name);
  bool flag(const std::string& name, bool otherwise);
  float number(const std::string& name, double low, double high, float otherwise);
  std::uint64_t whole(const std::string& name, std::int64_t low, std::int64_t high, std::uint64_t otherwise);
  std::string text(const std::string& name);
  // Token numbers below `vocabulary` (faults.md W16), at most `count_max`.
  std::vector<token_number> tokens(const std::string& name, std::size_t count_max, std::uint32_t vocabulary);
  // The same for a list that stands somewhere in the field `name`.
  std::vector<token_number> tokens(const std::string& name, const nlohmann::json& list, std::size_t count_max,
                                   std::uint32_t vocabulary);

  void refuse(std::string param, std::string message, std::string code = {}, errc reason = errc::invalid_request);
  [[nodiscard]] const std::optional<request_refusal>& problem() const { return problem_; }
  // Names of fields that nobody took; for the log.
  [[nodiscard]] std::vector<std::string> ignored() const;

 private:
  const nlohmann::json& object_;
  std::set<std::string> taken_;
  std::optional<request_refusal> problem_;
};

}  // namespace troupe::router
