#include "model/tokenizer/pre_tokenizers.hpp"

#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/byte_level.hpp"
#include "model/tokenizer/splitting.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

// Hands every piece that is no token to `split(piece&, piece_list& out)`.
template <class Split>
void split_each(piece_list& pieces, Split split) {
  piece_list out;
  out.reserve(pieces.size());
  for (auto& part : pieces) {
    part.token ? out.push_back(std::move(part)) : split(part, out);
  }
  pieces = std::move(out);
}

class split_at_pattern final : public pre_tokenizer {
 public:
  split_at_pattern(pattern searched, split_behavior behavior, bool inverts)
      : searched_(std::move(searched)), behavior_(behavior), inverts_(inverts) {}

  void apply(piece_list& pieces) const override {
    split_each(pieces, [this](const piece& whole, piece_list& out) {
      auto matches = searched_.find_all(whole.text);
      if (inverts_) {
        for (auto& range : matches) range.matched = !range.matched;
      }
      cut(whole, arrange(std::move(matches), behavior_), out);
    });
  }

 private:
  pattern searched_;
  split_behavior behavior_;
  bool inverts_;
};

class split_at_characters final : public pre_tokenizer {
 public:
  split_at_characters(bool (*matches)(char32_t), split_behavior behavior) : matches_(matches), behavior_(behavior) {}

  void apply(piece_list& pieces) const override {
    split_each(pieces, [this](const piece& whole, piece_list& out) {
      cut(whole, arrange(find_characters(whole.text, matches_), behavior_), out);
    });
  }

 private:
  bool (*matches_)(char32_t);
  split_behavior behavior_;
};

// Runs of word characters, and runs of what is neither word nor space.
class whitespace final : public pre_tokenizer {
 public:
  void apply(piece_list& pieces) const override {
    split_each(pieces, [](const piece& whole, piece_list& out) {
      enum class kind { space, word, other };
      auto kind_of = [](char32_t c) { return is_word(c) ? kind::word : is_white_space(c) ? kind::space : kind::other; };
      std::vector<match_range> runs;
      auto previous = kind::space;
      for (std::size_t i = 0; i < whole.text.size();) {
        auto begin = i;
        auto current = kind_of(take_character(whole.text, i));
        if (runs.empty() || current != previous) runs.push_back({begin, i, current == kind::space});
        runs.back().end = i;
        previous = current;
      }
      cut(whole, runs, out);
    });
  }
};

// GPT-2's: words by its expression unless that is switched off, then every byte as one character.
class byte_level final : public pre_tokenizer {
 public:
  byte_level(bool adds_space, std::optional<pattern> words) : adds_space_(adds_space), words_(std::move(words)) {}

  void apply(piece_list& pieces) const override {
    split_each(pieces, [this](piece& whole, piece_list& out) {
      if (adds_space_ && !whole.text.starts_with(' ')) whole.text.insert(whole.text.begin(), ' ');
      auto first = out.size();
      if (words_) {
        cut(whole, arrange(words_->find_all(whole.text), split_behavior::isolated), out);
      } else {
        out.push_back(std::move(whole));
      }
      for (; first < out.size(); ++first) out[first].text = to_byte_level(out[first].text);
    });
  }

 private:
  bool adds_space_;
  std::optional<pattern> words_;
};

enum class prepend_scheme : std::uint8_t { never, first, always };

class metaspace final : public pre_tokenizer {
 public:
  metaspace(std::string space, char32_t replacement, prepend_scheme scheme, bool splits)
      : space_(std::move(space)), replacement_(replacement), scheme_(scheme), splits_(splits) {}

  void apply(piece_list& pieces) const override {
    split_each(pieces, [this](piece& whole, piece_list& out) {
      whole.text = blank_.replace_all(whole.text, space_);
      bool prepends = scheme_ == prepend_scheme::always || (scheme_ == prepend_scheme::first && whole.at_start);
      if (prepends && !whole.text.starts_with(space_)) whole.text.insert(0, space_);
      if (!splits_) {
        out.push_back(std::move(whole));
        return;
      }
      auto at_space = find_characters(whole.text, [this](char32_t c) { return c == replacement_; });
      cut(whole, arrange(std::move(at_space), split_behavior::merged_with_next), out);
    });
  }

 private:
  pattern blank_{pattern::literal(" ")};
  std::string space_;
  char32_t replacement_;
  prepend_scheme scheme_;
  bool splits_;
};

class sequence final : public pre_tokenizer {
 public:
  explicit sequence(std::vector<std::unique_ptr<const pre_tokenizer>> steps) : steps_(std::move(steps)) {}
  void apply(piece_list& pieces) const override {
    for (const auto& step : steps_) step->apply(pieces);
  }

 private:
  std::vector<std::unique_ptr<const pre_tokenizer>> steps_;
};

split_behavior read_behavior(construct& source, std::string_view key, std::optional<std::string> fallback) {
  auto name = source.text(key, std::move(fallback));
  if (name == "Removed") return split_behavior::removed;
  if (name == "Isolated") return split_behavior::isolated;
  if (name == "MergedWithPrevious") return split_behavior::merged_with_previous;
  if (name == "MergedWithNext") return split_behavior::merged_with_next;
  if (name == "Contiguous") return split_behavior::contiguous;
  source.refuse(key, "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", printable(name));
  return split_behavior::isolated;
}

std::unique_ptr<const pre_tokenizer> read_byte_level(construct& source) {
  constexpr std::string_view gpt2_words =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  source.only({"add_prefix_space", "trim_offsets", "use_regex"});  // offsets are not computed here
  auto adds_space = source.flag("add_prefix_space");
  std::optional<pattern> words;
  if (source.flag("use_regex", true)) words = *pattern::regex(gpt2_words);
  source.state().grow(source.where(), (adds_space ? 2 : 1) * byte_level_growth);
  return std::make_unique<byte_level>(adds_space, std::move(words));
}

std::unique_ptr<const pre_tokenizer> read_metaspace(construct& source) {
  source.only({"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  auto replacement = source.character("replacement");
  // Files written before prepend_scheme existed have add_prefix_space instead.
  auto name = source.text("prepend_scheme", source.flag("add_prefix_space", true) ? "always" : "never");
  auto scheme = name == "never"   ? prepend_scheme::never
                : name == "first" ? prepend_scheme::first
                                  : prepend_scheme::always;
  if (scheme == prepend_scheme::always && name != "always") {
    source.refuse("prepend_scheme", "never, first or always", printable(name));
  }
  if (scheme != prepend_scheme::never && !source.flag("add_prefix_space", true)) {
    source.refuse("add_prefix_space", "what prepend_scheme says", "false");
  }
  // Either the first character becomes a space or one is put before it.
  std::string space;
  append_character(space, replacement);
  source.state().grow(source.where(), 1 + static_cast<double>(space.size()));
  return std::make_unique<metaspace>(std::move(space), replacement, scheme, source.flag("split", true));
}

std::unique_ptr<const pre_tokenizer> read_sequence(construct& source) {
  source.only({"pretokenizers"});
  std::vector<std::unique_ptr<const pre_tokenizer>> steps;
  for (auto& step : source.list("pretokenizers")) {
    if (auto made = read_pre_tokenizer(step)) steps.push_back(std::move(made));
  }
  return std::make_unique<sequence>(std::move(steps));
}

}  // namespace

std::unique_ptr<const pre_tokenizer> read_pre_tokenizer(construct source) {
  const auto type = source.type();
  if (type == "Sequence") return read_sequence(source);
  if (type == "ByteLevel") return read_byte_level(source);
  if (type == "Metaspace") return read_metaspace(source);
  if (type == "Split") {
    source.only({"pattern", "behavior", "invert"});
    auto searched = source.search("pattern");
    auto behavior = read_behavior(source, "behavior", {});
    return std::make_unique<split_at_pattern>(std::move(searched), behavior, source.flag("invert"));
  }
  if (type == "Digits") {
    source.only({"individual_digits"});
    auto each = source.flag("individual_digits") ? split_behavior::isolated : split_behavior::contiguous;
    return std::make_unique<split_at_characters>(&is_numeric, each);
  }
  if (type == "Punctuation") {
    source.only({"behavior"});
    return std::make_unique<split_at_characters>(&is_punctuation, read_behavior(source, "behavior", "Isolated"));
  }
  if (type == "Whitespace" || type == "WhitespaceSplit") source.only({});
  if (type == "Whitespace") return std::make_unique<whitespace>();
  if (type == "WhitespaceSplit") {
    return std::make_unique<split_at_characters>(&is_white_space, split_behavior::removed);
  }
  source.refuse_type("Sequence, ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit");
  return nullptr;
}

}  // namespace troupe::model
