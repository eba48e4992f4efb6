#include "model/json_document.hpp"

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

using nlohmann::json;

// Builds the document and stops at the first thing that the plain parser would let through.
class strict_builder final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return put(json(nullptr)); }
  bool boolean(bool value) override { return put(json(value)); }
  bool number_integer(number_integer_t value) override { return put(json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return put(json(value)); }
  bool number_float(number_float_t value, const string_t& /*text*/) override { return put(json(value)); }
  bool string(string_t& value) override { return put(json(std::move(value))); }
  bool binary(binary_t& /*value*/) override { return stop("binary values are not JSON"); }
  bool start_object(std::size_t /*elements*/) override { return open(json::object()); }
  bool start_array(std::size_t /*elements*/) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    key_ = std::move(value);
    if (open_.back()->contains(key_)) return stop(fmt::format("duplicate key \"{}\"", printable(key_)));
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/, const json::exception& reason) override {
    return stop(fmt::format("byte {}: {}", position, printable(reason.what())));
  }

  json document;
  std::string failure;

 private:
  bool stop(std::string reason) {
    failure = std::move(reason);
    return false;
  }

  json* place(json value) {
    if (open_.empty()) {
      document = std::move(value);
      return &document;
    }
    auto& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool put(json value) {
    place(std::move(value));
    return true;
  }

  bool open(json value) {
    if (open_.size() >= static_cast<std::size_t>(limits::json_depth_max)) {
      return stop(fmt::format("nested deeper than {} levels", limits::json_depth_max));
    }
    open_.push_back(place(std::move(value)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<json*> open_;  // only the innermost grows, so no pointer further out moves
  std::string key_;
};

}  // namespace

result<json> parse_json(std::string_view text, std::size_t bytes_max, std::string_view advice) {
  if (text.size() > bytes_max) {
    return fail(errc::too_large, fmt::format("{} bytes of JSON; at most {} are read", text.size(), bytes_max));
  }
  strict_builder builder;
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return fail(errc::invalid_request, fmt::format("not valid JSON: {}; {}", builder.failure, advice));
  }
  return std::move(builder.document);
}

}  // namespace troupe::model
