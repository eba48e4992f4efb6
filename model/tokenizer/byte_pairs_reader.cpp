// The "model" of tokenizer.json.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/tokenizer/byte_pairs.hpp"

namespace troupe::model {
namespace {

using nlohmann::json;

// Adds every string of {"string": number}; false after the first that does not fit.
bool read_vocabulary(construct& source, vocabulary& words) {
  const auto* entries = source.value("vocab");
  if (entries == nullptr || !entries->is_object()) {
    source.refuse("vocab", "an object", entries == nullptr ? "nothing" : entries->type_name());
    return false;
  }
  for (const auto& [text, number] : entries->items()) {
    if (number.is_number_unsigned() && number.get<std::uint64_t>() < limits::token_numbers_max &&
        words.add(text, number.get<token_number>())) {
      continue;
    }
    source.refuse("vocab", fmt::format("numbers below {}, each once", limits::token_numbers_max),
                  fmt::format("{} for \"{}\"", printable(number.dump(-1, ' ', true, json::error_handler_t::replace)),
                              printable(text)));
    return false;
  }
  return true;
}

// "left right" or ["left", "right"].
std::optional<std::pair<std::string, std::string>> read_pair(const json& entry) {
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
    return std::pair{entry[0].get<std::string>(), entry[1].get<std::string>()};
  }
  if (!entry.is_string()) return std::nullopt;
  const auto& line = entry.get_ref<const std::string&>();
  auto space = line.find(' ');
  if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) return std::nullopt;
  return std::pair{line.substr(0, space), line.substr(space + 1)};
}

std::vector<byte_pairs::merge_map::entry> read_merges(construct& source, const vocabulary& words) {
  std::vector<byte_pairs::merge_map::entry> merges;
  const auto* entries = source.value("merges");
  if (entries == nullptr || !entries->is_array()) {
    source.refuse("merges", "a list", entries == nullptr ? "nothing" : entries->type_name());
    return merges;
  }
  merges.reserve(entries->size());
  for (const auto& entry : *entries) {
    if (entry.is_string() && entry.get_ref<const std::string&>().starts_with("#version")) continue;
    auto rank = static_cast<std::uint32_t>(merges.size());
    auto pair = read_pair(entry);
    auto left = pair ? words.find(pair->first) : std::nullopt;
    auto right = pair ? words.find(pair->second) : std::nullopt;
    auto joined = pair ? words.find(pair->first + pair->second) : std::nullopt;
    if (!left || !right || !joined) {
      source.refuse("merges", "two tokens of the vocabulary that together are one",
                    printable(entry.dump(-1, ' ', false, json::error_handler_t::replace)));
      break;
    }
    merges.push_back({*left, *right, {rank, *joined}});
  }
  return merges;
}

void refuse_affix(construct& source, std::string_view key) {
  auto affix = source.text(key, "");
  if (!affix.empty()) source.refuse(key, "nothing: it is not supported", printable(affix));
}

void refuse_dropout(construct& source) {
  const auto* chance = source.value("dropout");
  if (chance == nullptr || (chance->is_number() && chance->get<double>() == 0)) return;
  source.refuse("dropout", "nothing: random merges are not supported",
                printable(chance->dump(-1, ' ', true, json::error_handler_t::replace)));
}

}  // namespace

std::unique_ptr<const subword_model> read_byte_pairs(construct source, vocabulary& words) {
  // Files written before there were other models have no type.
  if (source.type() != "BPE" && source.has("type")) {
    source.refuse_type("BPE");
    return nullptr;
  }
  source.only({"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
               "ignore_merges", "vocab", "merges"});
  refuse_dropout(source);
  refuse_affix(source, "continuing_subword_prefix");
  refuse_affix(source, "end_of_word_suffix");
  byte_pair_settings settings;
  settings.fuses_unknown = source.flag("fuse_unk", false);
  settings.falls_back_to_bytes = source.flag("byte_fallback", false);
  settings.ignores_merges = source.flag("ignore_merges", false);
  if (!read_vocabulary(source, words)) return nullptr;
  auto merges = read_merges(source, words);
  if (source.has("unk_token")) {
    auto unknown = source.text("unk_token");
    settings.unknown = words.find(unknown);
    if (!settings.unknown) source.refuse("unk_token", "a token of the vocabulary", printable(unknown));
  }
  return std::make_unique<byte_pairs>(words, std::move(merges), settings);
}

}  // namespace troupe::model
