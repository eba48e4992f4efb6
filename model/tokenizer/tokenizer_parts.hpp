// What a tokenizer consists of, whatever file it was read from.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "model/tokenizer/added_tokens.hpp"
#include "model/tokenizer/decoders.hpp"
#include "model/tokenizer/normalizers.hpp"
#include "model/tokenizer/pre_tokenizers.hpp"
#include "model/tokenizer/subword_model.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace troupe::model {

struct tokenizer_parts {
  vocabulary words;                                  // the model's own
  std::vector<added_token> added;                    // in part besides `words`
  added_tokens searched;                             // the same, for cutting them out of texts
  std::unique_ptr<const normalizer> normalizing;     // nullptr: none
  std::unique_ptr<const pre_tokenizer> pre_cutting;  // nullptr: none
  std::unique_ptr<const subword_model> model;        // refers to `words`
  decoder_chain decoders;
  std::vector<token_number> before;  // special tokens that stand before and after a text
  std::vector<token_number> after;
};

// Of tokenizer.json. invalid_request with a table that names every construct that is not supported.
[[nodiscard]] result<std::unique_ptr<const tokenizer_parts>> read_tokenizer_json(std::string_view text);

// Which of a sentencepiece model's special tokens stand around a text; the file itself does not say.
struct text_borders {
  bool begin{true};
  bool end{};
};
// Of tokenizer.model. invalid_request naming what is damaged or not supported.
[[nodiscard]] result<std::unique_ptr<const tokenizer_parts>> read_tokenizer_model(std::string_view bytes,
                                                                                  text_borders borders);

}  // namespace troupe::model
