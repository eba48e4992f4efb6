// The parts of a sentencepiece model file (a protobuf message, sentencepiece_model.proto) that encoding needs.
//
// Debian's libsentencepiece carries an old protobuf under the names of the current one, so a process that uses both
// crashes; and it trusts the file. The format is small enough to read here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace troupe::model {

enum class piece_kind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct sentence_piece {
  std::string text;  // valid UTF-8, not empty
  float score{};     // log probability of a unigram model; minus the rank of a byte pair model
  piece_kind kind{piece_kind::normal};
};

enum class piece_algorithm : std::uint8_t { unigram = 1, byte_pairs = 2 };

struct sentencepiece_file {
  std::vector<sentence_piece> pieces;  // by token number; one of them is `unknown`
  piece_algorithm algorithm{piece_algorithm::unigram};
  bool falls_back_to_bytes{};  // then there are 256 pieces of kind `byte`
  std::string begin_piece{"<s>"};
  std::string end_piece{"</s>"};
  // Normalizing.
  std::string character_map;  // see character_map.hpp; empty: characters stay as they are
  bool adds_space{true};      // in front of the text
  bool removes_extra_spaces{true};
  bool escapes_spaces{true};  // as U+2581
};

// invalid_request when it is no such message or needs something that is not supported, which it names.
[[nodiscard]] result<sentencepiece_file> read_sentencepiece_file(std::string_view bytes);

}  // namespace troupe::model
