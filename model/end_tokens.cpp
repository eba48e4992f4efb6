#include "model/end_tokens.hpp"

#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/checkpoint_files.hpp"
#include "model/file.hpp"
#include "model/json_document.hpp"

namespace troupe::model {
namespace {

using token_list = std::vector<token_number>;

// nullopt: the key is missing or null.
result<std::optional<token_list>> read_key(const nlohmann::json& document, std::string_view file,
                                           std::uint32_t vocabulary) {
  auto found = document.find("eos_token_id");
  if (found == document.end() || found->is_null()) return std::nullopt;
  token_list tokens;
  auto add = [&](const nlohmann::json& value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= vocabulary) return false;
    tokens.push_back(value.get<token_number>());
    return true;
  };
  bool good = true;
  if (found->is_array()) {
    for (const auto& value : *found) good = good && add(value);
  } else {
    good = add(*found);
  }
  if (good) return tokens;
  return fail(
      errc::invalid_request,
      fmt::format("{}: eos_token_id must be a token below {}, or a list of them; repair the file", file, vocabulary));
}

result<std::optional<token_list>> read_file(std::string_view text, std::string_view file, std::uint32_t vocabulary) {
  auto document = parse_json(text, limits::config_json_bytes_max);
  if (!document) return fail(document.error().code, fmt::format("{}: {}", file, document.error().message));
  if (!document->is_object()) {
    return fail(errc::invalid_request, fmt::format("{} is not a JSON object; repair the file", file));
  }
  return read_key(*document, file, vocabulary);
}

}  // namespace

result<token_list> read_end_tokens(const std::filesystem::path& folder, std::string_view config_json,
                                   std::uint32_t vocabulary) {
  constexpr std::string_view name = "generation_config.json";
  auto path = resolve_inside(folder, std::string{name});
  if (!path && path.error().code != errc::not_found) return fail(path.error());
  if (path) {
    auto text = read_text(*path, limits::config_json_bytes_max);
    if (!text) return fail(text.error());
    auto tokens = read_file(*text, name, vocabulary);
    if (!tokens) return fail(tokens.error());
    if (*tokens) return std::move(**tokens);
  }
  auto tokens = read_file(config_json, "config.json", vocabulary);
  if (!tokens) return fail(tokens.error());
  return std::move(*tokens).value_or(token_list{});
}

}  // namespace troupe::model
