#include "model/tokenizer/tokenizer.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/file.hpp"
#include "model/json_document.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {

namespace {

using read_parts = result<std::unique_ptr<const tokenizer_parts>>;

// transformers' defaults for sentencepiece models, unless tokenizer_config.json says otherwise.
result<text_borders> read_borders(const std::filesystem::path& model_folder) {
  text_borders borders;
  auto path = model_folder / "tokenizer_config.json";
  auto text = read_text(path, limits::config_json_bytes_max);
  if (!text) return text.error().code == errc::not_found ? result<text_borders>{borders} : fail(text.error());
  auto config = parse_json(*text, limits::config_json_bytes_max);
  if (!config) return fail(config.error().code, fmt::format("{}: {}", path.string(), config.error().message));
  auto read = [&config](const char* key, bool fallback) {
    auto found = config->is_object() ? config->find(key) : config->end();
    return config->is_object() && found != config->end() && found->is_boolean() ? found->get<bool>() : fallback;
  };
  return text_borders{read("add_bos_token", borders.begin), read("add_eos_token", borders.end)};
}

read_parts read_folder(const std::filesystem::path& model_folder) {
  auto named = [](const std::filesystem::path& path, read_parts parts) -> read_parts {
    if (!parts) return fail(parts.error().code, fmt::format("{}: {}", path.string(), parts.error().message));
    return parts;
  };
  auto path = model_folder / "tokenizer.json";
  auto bytes = read_text(path, limits::tokenizer_file_bytes_max);
  if (bytes) return named(path, read_tokenizer_json(*bytes));
  if (bytes.error().code != errc::not_found) return fail(bytes.error());
  path = model_folder / "tokenizer.model";
  bytes = read_text(path, limits::tokenizer_file_bytes_max);
  if (!bytes && bytes.error().code == errc::not_found) {
    return fail(errc::not_found,
                fmt::format("{} has neither tokenizer.json nor tokenizer.model; text needs one of them",
                            model_folder.string()));
  }
  if (!bytes) return fail(bytes.error());
  auto borders = read_borders(model_folder);
  if (!borders) return fail(borders.error());
  return named(path, read_tokenizer_model(*bytes, *borders));
}

}  // namespace

result<std::unique_ptr<const tokenizer>> tokenizer::make(result<std::unique_ptr<const tokenizer_parts>> parts) {
  if (!parts) return fail(parts.error());
  return std::unique_ptr<const tokenizer>{new tokenizer{std::move(*parts)}};
}

result<std::unique_ptr<const tokenizer>> tokenizer::open(const std::filesystem::path& model_folder) {
  return make(read_folder(model_folder));
}

result<std::unique_ptr<const tokenizer>> tokenizer::parse(std::string_view document) {
  return make(read_tokenizer_json(document));
}

result<std::unique_ptr<const tokenizer>> tokenizer::parse_sentencepiece(std::string_view bytes) {
  return make(read_tokenizer_model(bytes, {}));
}

tokenizer::tokenizer(std::unique_ptr<const tokenizer_parts> parts)
    : parts_(std::move(parts)), size_(parts_->words.size()) {
  for (const auto& token : parts_->added) {
    added_by_number_.emplace(token.number, &token);
    added_by_content_.emplace(token.content, &token);
    size_ = std::max(size_, token.number + 1);
  }
}

tokenizer::~tokenizer() = default;

std::vector<token_number> tokenizer::encode(std::string_view utf8, bool add_special) const {
  std::vector<token_number> tokens;
  if (add_special) tokens = parts_->before;
  piece_list pieces;
  if (!utf8.empty()) pieces.push_back({make_valid(utf8), true, {}});
  parts_->searched.split_raw(pieces);
  if (parts_->normalizing) {
    for (auto& part : pieces) {
      if (!part.token) parts_->normalizing->apply(part);
    }
    std::erase_if(pieces, [](const struct piece& part) { return !part.token && part.text.empty(); });
  }
  parts_->searched.split_normalized(pieces);
  if (parts_->pre_cutting) parts_->pre_cutting->apply(pieces);
  for (const auto& part : pieces) {
    if (part.token) {
      tokens.push_back(*part.token);
    } else {
      parts_->model->append_tokens(part.text, tokens);
    }
  }
  if (add_special) tokens.insert(tokens.end(), parts_->after.begin(), parts_->after.end());
  return tokens;
}

std::string tokenizer::decode(std::span<const token_number> tokens, bool skip_special) const {
  stream_decoder stream{*this, skip_special};
  std::string text;
  for (auto token : tokens) text += stream.push(token);
  return text + stream.finish();
}

const added_token* tokenizer::find_added(token_number number) const {
  auto found = added_by_number_.find(number);
  return found == added_by_number_.end() ? nullptr : found->second;
}

const std::string* tokenizer::text_of(token_number number) const {
  const auto* added = find_added(number);
  return added != nullptr ? &added->content : parts_->words.text_of(number);
}

std::optional<token_number> tokenizer::find(std::string_view token) const {
  auto added = added_by_content_.find(token);
  return added != added_by_content_.end() ? added->second->number : parts_->words.find(token);
}

std::string tokenizer::piece(token_number number) const {
  const auto* text = text_of(number);
  return text != nullptr ? *text : std::string{};
}

std::string tokenizer::bytes_of(token_number number) const {
  auto bytes = piece(number);
  if (find_added(number) != nullptr) return bytes;
  for (const auto& step : parts_->decoders) bytes = step->bytes_of(std::move(bytes));
  return bytes;
}

bool tokenizer::is_special(token_number number) const {
  const auto* added = find_added(number);
  return added != nullptr && added->special;
}

stream_decoder::stream_decoder(const tokenizer& from, bool skip_special)
    : from_(&from), skips_special_(skip_special), text_(std::make_unique<decoding>(from.parts_->decoders)) {}
stream_decoder::stream_decoder(stream_decoder&&) noexcept = default;
stream_decoder::~stream_decoder() = default;

void stream_decoder::prime(std::span<const token_number> tokens) {
  for (auto token : tokens) static_cast<void>(push(token));
}

std::string stream_decoder::push(token_number token) {
  const auto* text = from_->text_of(token);
  if (text == nullptr || (skips_special_ && from_->is_special(token))) return {};
  return text_->push(*text);
}

std::string stream_decoder::finish() { return text_->finish(); }

}  // namespace troupe::model
