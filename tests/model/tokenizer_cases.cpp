#include "tests/model/tokenizer_cases.hpp"

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model::test {
namespace {

using nlohmann::json;

std::optional<std::string> text_if_any(const json& value) {
  return value.is_null() ? std::nullopt : std::optional{value.get<std::string>()};
}

// Rows are objects in the older file and lists in the newer ones.
const json& field(const json& row, std::size_t place, const char* name) {
  return row.is_array() ? row[place] : row[name];
}

}  // namespace

std::filesystem::path golden_path(const std::string& relative) {
  return std::filesystem::path{TROUPE_SOURCE_DIR} / "tests/golden" / relative;
}

tokenizer_cases read_cases(const std::filesystem::path& file) {
  std::ifstream stream{file};
  auto document = json::parse(stream);
  tokenizer_cases cases;
  for (const auto& row : document["cases"]) {
    cases.texts.push_back({field(row, 0, "text"), field(row, 1, "ids"), field(row, 2, "ids_with_special"),
                           text_if_any(field(row, 3, "decoded")), text_if_any(field(row, 4, "decoded_skip_special"))});
  }
  for (const auto& row : document["decode_only"]) {
    cases.decodes.push_back({field(row, 0, "ids"), text_if_any(field(row, 1, "decoded")),
                             text_if_any(field(row, 2, "decoded_skip_special"))});
  }
  return cases;
}

std::unique_ptr<const tokenizer> must_open_tokenizer(const std::filesystem::path& folder) {
  auto opened = tokenizer::open(folder);
  if (!opened) throw std::runtime_error(opened.error().message);
  return std::move(*opened);
}

std::string stream(const tokenizer& from, const std::vector<token_number>& tokens, bool skip_special) {
  stream_decoder decoder{from, skip_special};
  std::string text;
  auto take = [&text](const std::string& part) {
    EXPECT_TRUE(is_valid_utf8(part)) << "a part ends within a character";
    text += part;
  };
  for (auto token : tokens) take(decoder.push(token));
  take(decoder.finish());
  return text;
}

}  // namespace troupe::model::test
