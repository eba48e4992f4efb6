// tokenizer.model, as sentencepiece writes it.
#include <utility>

#include <fmt/format.h>

#include "model/problem_list.hpp"
#include "model/tokenizer/sentencepiece_models.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace troupe::model {

result<std::unique_ptr<const tokenizer_parts>> read_tokenizer_model(std::string_view bytes, text_borders borders) {
  auto file = read_sentencepiece_file(bytes);
  if (!file) return fail(file.error());
  auto parts = std::make_unique<tokenizer_parts>();
  for (token_number number = 0; number < file->pieces.size(); ++number) {
    const auto& piece = file->pieces[number];
    if (!parts->words.add(piece.text, number)) {
      return fail(errc::invalid_request, fmt::format("piece \"{}\" is there twice", printable(piece.text)));
    }
    if (piece.kind != piece_kind::control && piece.kind != piece_kind::unknown) continue;
    // sentencepiece finds these nowhere in a text; transformers cuts them out before.
    added_token special;
    special.number = number;
    special.content = piece.text;
    special.special = true;
    parts->added.push_back(special);
    if (piece.kind == piece_kind::unknown) continue;
    if (borders.begin && piece.text == file->begin_piece) parts->before = {number};
    if (borders.end && piece.text == file->end_piece) parts->after = {number};
  }
  auto normalizing = make_sentencepiece_normalizer(*file);
  if (!normalizing) return fail(normalizing.error());
  parts->normalizing = std::move(*normalizing);
  parts->model = make_sentencepiece_model(*file);
  parts->decoders.push_back(make_sentencepiece_decoder(*file));
  parts->searched = added_tokens{parts->added, nullptr};
  return parts;
}

}  // namespace troupe::model
