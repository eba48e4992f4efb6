// Text to tokens and back, as the model's own tokenizer files say: tokenizer.json (byte pair encoding) or a
// sentencepiece tokenizer.model. Results equal those of the libraries that wrote the files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::model {

struct added_token;
struct tokenizer_parts;
class decoding;

// Immutable; const calls from many threads are safe.
class tokenizer {
 public:
  // tokenizer.json of the folder, else tokenizer.model. not_found when there is neither; invalid_request naming what is
  // not supported; too_large.
  [[nodiscard]] static result<std::unique_ptr<const tokenizer>> open(const std::filesystem::path& model_folder);
  // The same from the bytes of a tokenizer.json, or of a tokenizer.model (with its begin token in front of texts).
  [[nodiscard]] static result<std::unique_ptr<const tokenizer>> parse(std::string_view document);
  [[nodiscard]] static result<std::unique_ptr<const tokenizer>> parse_sentencepiece(std::string_view bytes);

  ~tokenizer();

  // Tokens of a text; what is not UTF-8 in it counts as U+FFFD. Special tokens that stand in the text are recognised.
  // `add_special`: with the tokens that the file puts around a text ("<s>" in front).
  [[nodiscard]] std::vector<token_number> encode(std::string_view utf8, bool add_special) const;
  // Valid UTF-8. Numbers without a token are left out, with `skip_special` special tokens too.
  [[nodiscard]] std::string decode(std::span<const token_number> tokens, bool skip_special) const;

  [[nodiscard]] std::uint32_t size() const { return size_; }  // all numbers are below it
  [[nodiscard]] std::optional<token_number> find(std::string_view token) const;
  // As in the vocabulary ("Ġthe"); empty when no token has the number.
  [[nodiscard]] std::string piece(token_number number) const;
  // The bytes that the token stands for (" the"), which need not be UTF-8.
  [[nodiscard]] std::string bytes_of(token_number number) const;
  [[nodiscard]] bool is_special(token_number number) const;

 private:
  friend class stream_decoder;
  explicit tokenizer(std::unique_ptr<const tokenizer_parts> parts);
  static result<std::unique_ptr<const tokenizer>> make(result<std::unique_ptr<const tokenizer_parts>> parts);
  [[nodiscard]] const added_token* find_added(token_number number) const;
  [[nodiscard]] const std::string* text_of(token_number number) const;

  std::unique_ptr<const tokenizer_parts> parts_;
  std::unordered_map<token_number, const added_token*> added_by_number_;
  std::unordered_map<std::string_view, const added_token*> added_by_content_;
  std::uint32_t size_{};
};

// The text of an answer that is still growing. All that it gives out is, together, what decode() makes of all tokens,
// and no part ends within a character. One thread; the tokenizer outlives it.
class stream_decoder {
 public:
  stream_decoder(const tokenizer& from, bool skip_special);
  stream_decoder(stream_decoder&&) noexcept;
  ~stream_decoder();

  // Tokens that came before and whose text was given out already, by this stream or by the one that it continues.
  void prime(std::span<const token_number> tokens);
  // The text that became complete; may be empty. Up to a few tokens are held back where the next one can change them.
  [[nodiscard]] std::string push(token_number token);
  // What is left: bytes of an unfinished character become U+FFFD. Afterwards the stream is at its end.
  [[nodiscard]] std::string finish();

 private:
  const tokenizer* from_;
  bool skips_special_;
  std::unique_ptr<decoding> text_;
};

}  // namespace troupe::model
