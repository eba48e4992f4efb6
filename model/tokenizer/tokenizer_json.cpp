// tokenizer.json, as the Hugging Face `tokenizers` library writes it, version "1.0".
#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/json_document.hpp"
#include "model/tokenizer/byte_pairs.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace troupe::model {
namespace {

added_token read_added_token(construct& source) {
  source.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  added_token token;
  token.number = source.count("id", limits::token_numbers_max - 1);
  token.content = source.text("content");
  token.single_word = source.flag("single_word", false);
  token.strips_left = source.flag("lstrip", false);
  token.strips_right = source.flag("rstrip", false);
  token.normalized = source.flag("normalized", true);
  token.special = source.flag("special", false);
  return token;
}

void read_added_tokens(construct& source, tokenizer_parts& parts) {
  if (!source.has("added_tokens")) return;
  std::unordered_set<token_number> numbers;
  std::unordered_set<std::string> contents;
  for (auto& entry : source.list("added_tokens")) {
    auto token = read_added_token(entry);
    if (token.content.empty()) continue;  // the reference ignores it too
    const auto* word = parts.words.text_of(token.number);
    auto number = parts.words.find(token.content);
    bool is_other = (word != nullptr && *word != token.content) || (number && *number != token.number);
    if (is_other || !numbers.insert(token.number).second || !contents.insert(token.content).second) {
      entry.refuse("id", "a number and a content that no other token has",
                   fmt::format("{} for \"{}\"", token.number, printable(token.content)));
      continue;
    }
    parts.added.push_back(std::move(token));
  }
}

bool has_token(const tokenizer_parts& parts, token_number number) {
  return parts.words.text_of(number) != nullptr ||
         std::any_of(parts.added.begin(), parts.added.end(),
                     [number](const auto& token) { return token.number == number; });
}

// The numbers of one special token of a template: {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}.
std::vector<token_number> read_special(construct& source, const std::string& name, const tokenizer_parts& parts) {
  std::vector<token_number> numbers;
  const auto* all = source.value("special_tokens");
  if (all != nullptr && all->is_object() && all->contains(name)) {
    construct entry{(*all)[name], source.where() + ".special_tokens", source.state()};
    const auto* ids = entry.value("ids");
    for (std::size_t i = 0; ids != nullptr && ids->is_array() && i < ids->size(); ++i) {
      const auto& id = (*ids)[i];
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= limits::token_numbers_max) break;
      if (!has_token(parts, id.get<token_number>())) break;
      numbers.push_back(id.get<token_number>());
    }
    if (ids != nullptr && !numbers.empty() && numbers.size() == ids->size()) return numbers;
  }
  source.refuse("special_tokens", "the numbers of every token in the template", printable(name));
  return {};
}

// What stands around the text goes outside of what earlier processors put around it.
void read_template(construct& source, tokenizer_parts& parts) {
  source.only({"single", "pair", "special_tokens"});  // pairs of texts are not encoded here
  std::vector<token_number> before;
  std::vector<token_number> after;
  std::size_t texts = 0;
  for (auto& entry : source.list("single")) {
    entry.only({"SpecialToken", "Sequence"});
    if (const auto* special = entry.value("SpecialToken")) {
      construct named{*special, entry.where() + ".SpecialToken", source.state()};
      auto numbers = read_special(source, named.text("id"), parts);
      auto& place = texts == 0 ? before : after;
      place.insert(place.end(), numbers.begin(), numbers.end());
    } else {
      ++texts;
      const auto* sequence = entry.value("Sequence");
      auto name = sequence != nullptr && sequence->is_object() ? sequence->value("id", std::string{}) : std::string{};
      if (name != "A") entry.refuse("Sequence", "the text, A", printable(name));
    }
  }
  if (texts != 1) source.refuse("single", "a template with the text in one place", fmt::format("{} places", texts));
  parts.before.insert(parts.before.begin(), before.begin(), before.end());
  parts.after.insert(parts.after.end(), after.begin(), after.end());
}

void read_post_processor(construct source, tokenizer_parts& parts) {
  const auto type = source.type();
  if (type == "TemplateProcessing") {
    read_template(source, parts);
  } else if (type == "ByteLevel") {
    source.only({"add_prefix_space", "trim_offsets", "use_regex"});  // only changes offsets
  } else if (type == "Sequence") {
    source.only({"processors"});
    for (auto& step : source.list("processors")) read_post_processor(step, parts);
  } else {
    source.refuse_type("Sequence, TemplateProcessing, ByteLevel");
  }
}

}  // namespace

result<std::unique_ptr<const tokenizer_parts>> read_tokenizer_json(std::string_view text) {
  auto document = parse_json(text, limits::tokenizer_file_bytes_max);
  if (!document) return fail(document.error());
  problem_list problems;
  reading encoding{problems};
  reading decoding{problems};
  construct root{*document, "", encoding};
  // Truncation and padding are settings of a call that the file happened to be saved with; transformers resets them.
  root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
             "decoder", "model"});
  if (auto version = root.text("version", "1.0"); version != "1.0") root.refuse("version", "1.0", printable(version));
  auto parts = std::make_unique<tokenizer_parts>();
  if (const auto* found = root.value("model")) {
    parts->model = read_byte_pairs({*found, "model", encoding}, parts->words);
  } else {
    root.refuse("model", "an object", "nothing");
  }
  if (const auto* found = root.value("normalizer"))
    parts->normalizing = read_normalizer({*found, "normalizer", encoding});
  if (const auto* found = root.value("pre_tokenizer")) {
    parts->pre_cutting = read_pre_tokenizer({*found, "pre_tokenizer", encoding});
  }
  read_added_tokens(root, *parts);
  if (const auto* found = root.value("post_processor"))
    read_post_processor({*found, "post_processor", encoding}, *parts);
  if (const auto* found = root.value("decoder")) {
    read_decoder({*found, "decoder", decoding}, parts->decoders);
  } else {
    parts->decoders.push_back(make_blank_joiner());
  }
  if (!problems.empty()) {
    return fail(
        problems.to_error("tokenizer.json", "use a tokenizer of a kind that is supported, see model/README.md"));
  }
  parts->searched = added_tokens{parts->added, parts->normalizing.get()};
  return parts;
}

}  // namespace troupe::model
