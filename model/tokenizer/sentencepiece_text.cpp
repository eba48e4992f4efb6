// What sentencepiece does to a text before it looks for pieces, and how pieces become text again.
#include <string>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/tokenizer/sentencepiece_models.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

constexpr std::string_view space_symbol = "\xE2\x96\x81";  // U+2581

class sentencepiece_normalizer final : public normalizer {
 public:
  sentencepiece_normalizer(const sentencepiece_file& file, character_map characters, piece_table user_defined)
      : characters_(std::move(characters)),
        user_defined_(std::move(user_defined)),
        space_(file.escapes_spaces ? space_symbol : " "),
        adds_space_(file.adds_space),
        removes_extra_(file.removes_extra_spaces) {}

  void apply(piece& changed) const override {
    std::string_view text = changed.text;
    while (removes_extra_ && !text.empty()) {
      auto next = take(text);
      if (next.text != " ") break;
      text.remove_prefix(next.bytes);
    }
    std::string normal;
    if (!text.empty() && adds_space_) normal += space_;
    bool after_space = removes_extra_;
    while (!text.empty()) {
      auto next = take(text);
      text.remove_prefix(next.bytes);
      while (after_space && next.text.starts_with(' ')) next.text.remove_prefix(1);
      for (char byte : next.text) byte == ' ' ? normal += space_ : normal += byte;
      if (!next.text.empty()) after_space = removes_extra_ && next.text.ends_with(' ');
    }
    while (removes_extra_ && normal.ends_with(space_)) normal.resize(normal.size() - space_.size());
    changed.text = std::move(normal);
  }

 private:
  // The next unit of the text: a user defined piece, what the map replaces, or a character.
  [[nodiscard]] character_map::replacement take(std::string_view text) const {
    if (auto bytes = user_defined_.user_defined_at(text); bytes > 0) return {bytes, text.substr(0, bytes)};
    if (auto mapped = characters_.longest(text)) return *mapped;
    std::size_t end = 0;
    static_cast<void>(take_character(text, end));
    return {end, text.substr(0, end)};
  }

  character_map characters_;
  piece_table user_defined_;
  std::string space_;
  bool adds_space_;
  bool removes_extra_;
};

// Takes a byte piece's character when it is complete. What is no UTF-8 becomes one U+FFFD per byte, unlike elsewhere.
std::string take_complete(std::string& bytes, bool all) {
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    auto step = next_utf8(rest);
    if (step.state == utf8_state::incomplete && !all) break;
    bool is_valid = step.state == utf8_state::valid;
    text += is_valid ? rest.substr(0, step.bytes) : replacement_character;
    rest.remove_prefix(is_valid ? step.bytes : 1);
  }
  bytes.erase(0, bytes.size() - rest.size());
  return text;
}

class sentencepiece_decoder final : public decoder_step {
 public:
  sentencepiece_decoder(bool has_bytes, bool drops_one, bool drops_all)
      : has_bytes_(has_bytes), drops_one_(drops_one), drops_all_(drops_all) {}
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(*this); }
  std::string bytes_of(std::string token) const override {
    auto byte = byte_in(token);
    return byte ? std::string(1, static_cast<char>(*byte)) : spaces_.replace_all(token, " ");
  }

 private:
  [[nodiscard]] std::optional<unsigned char> byte_in(std::string_view token) const {
    return has_bytes_ ? byte_of_token(token) : std::nullopt;
  }

  class state final : public decoder_state {
   public:
    explicit state(const sentencepiece_decoder& step) : step_(step) {}

    void push(token_part part, token_parts& out) override {  // first of its chain: parts are whole tokens
      if (auto byte = step_.byte_in(part.text)) {
        bytes_ += static_cast<char>(*byte);
        put(take_complete(bytes_, false), out);
        return;
      }
      put(take_complete(bytes_, true), out);
      std::string_view text = part.text;
      if (at_front_ && (step_.drops_one_ || step_.drops_all_) && text.starts_with(space_symbol)) {
        text.remove_prefix(space_symbol.size());
        if (!step_.drops_all_) at_front_ = false;
      }
      put(step_.spaces_.replace_all(text, " "), out);
    }
    void finish(token_parts& out) override { put(take_complete(bytes_, true), out); }

   private:
    void put(std::string text, token_parts& out) {
      if (text.empty()) return;
      at_front_ = false;
      out.push_back({std::move(text), true});
    }

    const sentencepiece_decoder& step_;
    std::string bytes_;
    bool at_front_{true};
  };

  pattern spaces_{pattern::literal(std::string{space_symbol})};
  bool has_bytes_;
  bool drops_one_;
  bool drops_all_;
};

}  // namespace

result<std::unique_ptr<const normalizer>> make_sentencepiece_normalizer(const sentencepiece_file& file) {
  auto characters = character_map::parse(file.character_map);
  if (!characters) return fail(characters.error());
  // Every byte could be replaced by the longest text, of blanks that become three bytes each.
  auto growth = 3.0 * static_cast<double>(characters->replacement_bytes_max() + 1);
  if (growth > limits::text_growth_max) {
    return fail(errc::invalid_request,
                fmt::format("precompiled_charsmap can make a text {:g} times as long; at most {} times is supported",
                            growth, limits::text_growth_max));
  }
  return std::make_unique<sentencepiece_normalizer>(file, std::move(*characters), piece_table{file});
}

std::unique_ptr<const decoder_step> make_sentencepiece_decoder(const sentencepiece_file& file) {
  return std::make_unique<sentencepiece_decoder>(file.falls_back_to_bytes, file.adds_space, file.removes_extra_spaces);
}

}  // namespace troupe::model
