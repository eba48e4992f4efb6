// Any bytes as text, as tokenizer.json, and as tokenizer.model. First byte: what the rest is.
//   0: text for a few valid tokenizers of different kinds; 1: a whole tokenizer.json; 2: an object whose keys replace
//   those of a valid one, which gets deeper; 3: a whole tokenizer.model.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/unicode.hpp"

namespace {

using namespace troupe::model;

void require(bool holds) {
  if (!holds) std::abort();
}

constexpr std::string_view probe = " Hi 12\xC3\xA9\n\n<s>  \xE2\x96\x81x</s>it's e\xCC\x81\xEF\xAC\x81 <a> b<a>";

// Byte level, byte fallback, and the rest.
const std::vector<std::string>& documents() {
  static const std::vector<std::string> all{
      R"({"added_tokens": [{"id": 0, "content": "<s>", "special": true, "normalized": false, "lstrip": true, "rstrip": true}],
          "normalizer": {"type": "NFC"},
          "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s+(?!\\S)|\\s+"},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
          "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
          "decoder": {"type": "ByteLevel"},
          "model": {"type": "BPE", "vocab": {"<s>": 0, "H": 1, "i": 2, "Hi": 3, "\u0120": 4, "\u00c3": 5, "\u00a9": 6, "\u00c3\u00a9": 7},
                    "merges": [["H", "i"], ["\u00c3", "\u00a9"]]}})",
      R"({"added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false}, {"id": 4, "content": "b", "single_word": true}],
          "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
          "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]},
          "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                    "vocab": {"<unk>": 0, "<s>": 1, "\u2581": 2, "a": 3, "b": 4, "ab": 5, "<0xC3>": 6, "<0xA9>": 7, "\u2581\u2581": 8},
                    "merges": ["a b", "\u2581 \u2581"]}})",
      R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true},
            {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]},
          "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Whitespace"},
            {"type": "Digits", "individual_digits": false}, {"type": "Punctuation", "behavior": "MergedWithNext"},
            {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}]},
          "decoder": {"type": "Metaspace", "replacement": "_"},
          "model": {"type": "BPE", "vocab": {"h": 0, "i": 1, "_": 2, "_h": 3, "_hi": 4}, "merges": [["_", "h"], ["_h", "i"]]}})"};
  return all;
}

void use(const tokenizer& made, std::string_view text) {
  for (bool special : {false, true}) {
    auto tokens = made.encode(text, special);
    std::string streamed;
    stream_decoder stream{made, special};
    for (auto token : tokens) {
      require(token < made.size());
      auto part = stream.push(token);
      require(is_valid_utf8(part));
      streamed += part;
      static_cast<void>(made.bytes_of(token));
    }
    streamed += stream.finish();
    require(is_valid_utf8(streamed) && streamed == made.decode(tokens, special));
  }
}

void use_if_valid(const troupe::result<std::unique_ptr<const tokenizer>>& made) {
  if (!made) return require(!made.error().message.empty());
  use(**made, probe);
  std::vector<troupe::token_number> all;
  for (troupe::token_number token = 0; token < std::min(made.value()->size(), 512U); ++token) all.push_back(token);
  require(is_valid_utf8(made.value()->decode(all, false)));
}

void use_changed(std::string_view text) {
  auto changes = nlohmann::json::parse(text, nullptr, false);
  if (!changes.is_object()) return;
  for (const auto& document : documents()) {
    auto changed = nlohmann::json::parse(document);
    changed.update(changes);
    use_if_valid(tokenizer::parse(changed.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view rest{reinterpret_cast<const char*>(data) + 1, size - 1};
  switch (data[0] % 4) {
    case 0: {
      static const auto valid = [] {
        std::vector<std::unique_ptr<const tokenizer>> made;
        for (const auto& document : documents()) {
          auto parsed = tokenizer::parse(document);
          require(parsed.has_value());
          made.push_back(std::move(*parsed));
        }
        return made;
      }();
      for (const auto& made : valid) use(*made, rest);
      break;
    }
    case 1:
      use_if_valid(tokenizer::parse(rest));
      break;
    case 2:
      use_changed(rest);
      break;
    default:
      use_if_valid(tokenizer::parse_sentencepiece(rest));
  }
  return 0;
}
