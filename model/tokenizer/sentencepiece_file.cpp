#include "model/tokenizer/sentencepiece_file.hpp"

#include <bitset>
#include <cmath>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/problem_list.hpp"
#include "model/tokenizer/protobuf_fields.hpp"
#include "model/tokenizer/unicode.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace troupe::model {
namespace {

error damaged(std::string_view what) {
  return {errc::invalid_request, fmt::format("{} is damaged; restore the file", what)};
}

error unsupported(std::string_view what) {
  return {errc::invalid_request, fmt::format("{} is not supported; convert the model to tokenizer.json", what)};
}

result<sentence_piece> read_piece(std::string_view message) {
  sentence_piece read;
  std::uint64_t kind = 1;
  protobuf_fields fields{message};
  while (fields.next()) {
    if (fields.number() == 1) read.text = fields.bytes();
    if (fields.number() == 2) read.score = fields.real();
    if (fields.number() == 3) kind = fields.integer();
  }
  bool is_known = kind >= 1 && kind <= static_cast<std::uint64_t>(piece_kind::byte);
  if (fields.is_damaged() || !is_known || read.text.empty() || !is_valid_utf8(read.text) ||
      !std::isfinite(read.score)) {
    return fail(damaged(fmt::format("piece \"{}\"", printable(read.text))));
  }
  read.kind = static_cast<piece_kind>(kind);
  return read;
}

result<void> read_trainer(std::string_view message, sentencepiece_file& file) {
  protobuf_fields fields{message};
  std::uint64_t algorithm = 1;
  while (fields.next()) {
    switch (fields.number()) {
      case 3:
        algorithm = fields.integer();
        break;
      case 24:
        if (fields.integer() != 0) return fail(unsupported("treat_whitespace_as_suffix"));
        break;
      case 35:
        file.falls_back_to_bytes = fields.integer() != 0;
        break;
      case 46:
        file.begin_piece = fields.bytes();
        break;
      case 47:
        file.end_piece = fields.bytes();
        break;
      default:
        break;
    }
  }
  if (fields.is_damaged()) return fail(damaged("trainer_spec"));
  if (algorithm != 1 && algorithm != 2)
    return fail(unsupported(fmt::format("model_type {} (word or character)", algorithm)));
  file.algorithm = static_cast<piece_algorithm>(algorithm);
  return {};
}

result<void> read_normalizer_settings(std::string_view message, sentencepiece_file& file) {
  protobuf_fields fields{message};
  while (fields.next()) {
    if (fields.number() == 2) file.character_map = fields.bytes();
    if (fields.number() == 3) file.adds_space = fields.integer() != 0;
    if (fields.number() == 4) file.removes_extra_spaces = fields.integer() != 0;
    if (fields.number() == 5) file.escapes_spaces = fields.integer() != 0;
  }
  if (fields.is_damaged()) return fail(damaged("normalizer_spec"));
  return {};
}

// Changes texts after decoding; only models that translate have one.
result<void> refuse_denormalizer(std::string_view message) {
  protobuf_fields fields{message};
  while (fields.next()) {
    if (fields.number() == 2 && !fields.bytes().empty()) return fail(unsupported("denormalizer_spec"));
  }
  if (fields.is_damaged()) return fail(damaged("denormalizer_spec"));
  return {};
}

result<void> check(const sentencepiece_file& file) {
  std::unordered_set<std::string_view> texts;
  std::bitset<256> bytes;
  std::size_t unknown = 0;
  for (const auto& piece : file.pieces) {
    if (!texts.insert(piece.text).second)
      return fail(damaged(fmt::format("piece \"{}\", there twice,", printable(piece.text))));
    if (piece.kind == piece_kind::unknown) ++unknown;
    if (piece.kind != piece_kind::byte) continue;
    auto byte = byte_of_token(piece.text);
    if (!byte || !file.falls_back_to_bytes)
      return fail(damaged(fmt::format("byte piece \"{}\"", printable(piece.text))));
    bytes.set(*byte);
  }
  if (unknown != 1) return fail(damaged(fmt::format("a vocabulary with {} unknown pieces", unknown)));
  if (file.falls_back_to_bytes && !bytes.all()) return fail(damaged("a vocabulary without a piece for every byte"));
  return {};
}

}  // namespace

result<sentencepiece_file> read_sentencepiece_file(std::string_view bytes) {
  sentencepiece_file file;
  protobuf_fields fields{bytes};
  while (fields.next()) {
    result<void> read;
    if (fields.number() == 1) {
      if (file.pieces.size() == limits::token_numbers_max) {
        return fail(errc::too_large, fmt::format("more than {} pieces", limits::token_numbers_max));
      }
      auto piece = read_piece(fields.bytes());
      if (!piece) return fail(piece.error());
      file.pieces.push_back(std::move(*piece));
    } else if (fields.number() == 2) {
      read = read_trainer(fields.bytes(), file);
    } else if (fields.number() == 3) {
      read = read_normalizer_settings(fields.bytes(), file);
    } else if (fields.number() == 5) {
      read = refuse_denormalizer(fields.bytes());
    }
    if (!read) return fail(read.error());
  }
  if (fields.is_damaged()) return fail(damaged("the message"));
  if (auto checked = check(file); !checked) return fail(checked.error());
  return file;
}

}  // namespace troupe::model
