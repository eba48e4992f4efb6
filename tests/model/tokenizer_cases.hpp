// Recorded cases of the reference tokenizers (tests/golden/): what texts become, and back.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"

namespace troupe::model::test {

struct text_case {
  std::string text;
  std::vector<token_number> tokens;
  std::vector<token_number> with_special;
  std::optional<std::string> decoded;        // nothing: not recorded
  std::optional<std::string> decoded_plain;  // without special tokens
};

struct decode_case {
  std::vector<token_number> tokens;
  std::optional<std::string> decoded;
  std::optional<std::string> decoded_plain;
};

struct tokenizer_cases {
  std::vector<text_case> texts;
  std::vector<decode_case> decodes;
};

std::filesystem::path golden_path(const std::string& relative);
// tokenizer_cases.json of the nine families' goldens, or cases.json of tests/golden/tokenizers.
tokenizer_cases read_cases(const std::filesystem::path& file);
std::unique_ptr<const tokenizer> must_open_tokenizer(const std::filesystem::path& folder);
// All tokens pushed one by one. Fails the test when a part is not whole characters.
std::string stream(const tokenizer& from, const std::vector<token_number>& tokens, bool skip_special);

}  // namespace troupe::model::test
