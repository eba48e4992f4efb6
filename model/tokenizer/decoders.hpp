// Decoders: from the strings of tokens to text. A decoder is a chain of steps, each a machine that is fed the tokens of
// a text in order and gives out text as soon as it is certain. Decoding a whole text is feeding all of it, so a stream
// ends with the same text by construction.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer/construct.hpp"

namespace troupe::model {

// A token's string, whole or in parts; valid UTF-8.
struct token_part {
  std::string text;
  bool ends_token{true};
};

using token_parts = std::vector<token_part>;

// What one text has left in a step. One thread.
class decoder_state {
 public:
  virtual ~decoder_state() = default;
  virtual void push(token_part part, token_parts& out) = 0;
  virtual void finish(token_parts& out) { static_cast<void>(out); }  // the text has no more tokens
};

// Immutable; const calls from many threads are safe.
class decoder_step {
 public:
  virtual ~decoder_step() = default;
  [[nodiscard]] virtual std::unique_ptr<decoder_state> begin() const = 0;
  // What becomes of a token's bytes when it stands alone, borders of the text aside.
  [[nodiscard]] virtual std::string bytes_of(std::string token) const { return token; }
};

using decoder_chain = std::vector<std::unique_ptr<const decoder_step>>;

// One text on its way through the chain, which outlives it. One thread.
class decoding {
 public:
  explicit decoding(const decoder_chain& chain);

  [[nodiscard]] std::string push(std::string token);  // the text that became certain: whole characters
  [[nodiscard]] std::string finish();                 // what is left; afterwards only destroy

 private:
  void run(std::size_t first_step, token_parts& parts);

  std::vector<std::unique_ptr<decoder_state>> states_;
};

// Appends the steps of the "decoder" of tokenizer.json.
void read_decoder(construct source, decoder_chain& chain);
// What a tokenizer.json without decoder means: the tokens with blanks between them.
[[nodiscard]] std::unique_ptr<const decoder_step> make_blank_joiner();

}  // namespace troupe::model
