// The two algorithms of sentencepiece, and what it does to a text before and after them. Results equal the library's.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/tokenizer/character_map.hpp"
#include "model/tokenizer/decoders.hpp"
#include "model/tokenizer/normalizers.hpp"
#include "model/tokenizer/sentencepiece_file.hpp"
#include "model/tokenizer/subword_model.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace troupe::model {

// The pieces that can be found in text, by their bytes.
class piece_table {
 public:
  explicit piece_table(const sentencepiece_file& file);

  struct entry {
    token_number number;
    float score;
    piece_kind kind;
  };
  [[nodiscard]] const entry* find(std::string_view text) const;  // nullptr: none
  // The longest user defined piece with which the text begins; 0: none.
  [[nodiscard]] std::size_t user_defined_at(std::string_view text) const;
  [[nodiscard]] std::size_t bytes_max() const { return bytes_max_; }
  [[nodiscard]] float score_min() const { return score_min_; }
  [[nodiscard]] float score_max() const { return score_max_; }

  // Appends the token of a part of the text; nullptr: an unknown one, which becomes bytes or is joined to an unknown
  // one before it.
  class writer {
   public:
    writer(const piece_table& table, std::vector<token_number>& tokens) : table_(table), tokens_(tokens) {}
    void put(std::string_view text, const entry* found);

   private:
    const piece_table& table_;
    std::vector<token_number>& tokens_;
    bool after_unknown_{};
  };

 private:
  std::unordered_map<std::string, entry, text_hash, std::equal_to<>> entries_;
  std::vector<std::size_t> user_defined_bytes_;  // lengths that user defined pieces have, the longest first
  std::vector<token_number> bytes_;              // of byte pieces; empty without byte fallback
  token_number unknown_{};
  std::size_t bytes_max_{};
  float score_min_{};
  float score_max_{};
};

[[nodiscard]] std::unique_ptr<const subword_model> make_sentencepiece_model(const sentencepiece_file& file);
// invalid_request when the character map is damaged or makes texts too long.
[[nodiscard]] result<std::unique_ptr<const normalizer>> make_sentencepiece_normalizer(const sentencepiece_file& file);
// Blanks from U+2581, without those that normalizing put in front, and bytes from byte pieces.
[[nodiscard]] std::unique_ptr<const decoder_step> make_sentencepiece_decoder(const sentencepiece_file& file);

}  // namespace troupe::model
