// Byte pair encoding of tokenizer.json ("BPE"): begin with characters, join the pair that was learnt first until none
// is left (Sennrich et al., https://aclanthology.org/P16-1162). O(n log n) in the length of a piece.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/construct.hpp"
#include "model/tokenizer/subword_model.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace troupe::model {

struct byte_pair_settings {
  std::optional<token_number> unknown;  // for characters without a token; none: they are left out
  bool fuses_unknown{};                 // neighbouring unknown characters become one token
  bool falls_back_to_bytes{};           // characters without a token become the tokens <0xNN> of their bytes
  bool ignores_merges{};                // a piece that is in the vocabulary is one token whatever the merges say
};

class byte_pairs final : public subword_model {
 public:
  // Pair (left, right) becomes `joined`; the lower rank goes first.
  struct merge {
    token_number left;
    token_number right;
    std::uint32_t rank;
    token_number joined;
  };

  // `words` outlives the model. The last of equal pairs counts.
  byte_pairs(const vocabulary& words, std::vector<merge> merges, byte_pair_settings settings);

  void append_tokens(std::string_view text, std::vector<token_number>& tokens) const override;

 private:
  struct symbol;
  [[nodiscard]] const merge* find_merge(token_number left, token_number right) const;
  [[nodiscard]] std::optional<token_number> find_character(std::string_view character) const;
  [[nodiscard]] bool append_bytes(std::string_view character, std::vector<token_number>& symbols) const;
  void split(std::string_view text, std::vector<token_number>& symbols) const;
  void join(std::vector<token_number>& symbols) const;
  void join_short(std::vector<token_number>& symbols) const;

  const vocabulary& words_;
  std::vector<merge> merges_;             // by left, then right
  std::vector<std::uint32_t> begin_;      // of a left token's merges
  std::vector<std::int32_t> characters_;  // token of a code point below 0x800, -1: none
  std::array<std::optional<token_number>, 256> bytes_;
  byte_pair_settings settings_;
};

// Fills `words`. nullptr when there are problems.
[[nodiscard]] std::unique_ptr<const subword_model> read_byte_pairs(construct source, vocabulary& words);

}  // namespace troupe::model
