#include "common/ids.hpp"

#include <charconv>

namespace troupe {
namespace {

constexpr std::string_view encoder_prefix = "encoder.";
constexpr std::string_view decoder_prefix = "decoder.";

std::optional<std::uint32_t> parse_number(std::string_view text, std::uint32_t largest) {
  if (text.empty() || (text.size() > 1 && text.front() == '0')) return std::nullopt;
  std::uint32_t value = 0;
  auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc{} || end != text.data() + text.size() || value > largest) return std::nullopt;
  return value;
}

}  // namespace

std::string to_string(layer_id layer) {
  auto block = std::to_string(layer.block());
  switch (layer.stack()) {
    case layer_stack::encoder:
      return std::string{encoder_prefix} + block;
    case layer_stack::decoder:
      return std::string{decoder_prefix} + block;
    case layer_stack::plain:
      break;
  }
  return block;
}

std::optional<layer_id> parse_layer(std::string_view text) {
  auto stack = layer_stack::plain;
  if (text.starts_with(encoder_prefix)) {
    stack = layer_stack::encoder;
    text.remove_prefix(encoder_prefix.size());
  } else if (text.starts_with(decoder_prefix)) {
    stack = layer_stack::decoder;
    text.remove_prefix(decoder_prefix.size());
  }
  auto block = parse_number(text, 0xffffffU);
  if (!block) return std::nullopt;
  return layer_id::of(*block, stack);
}

std::string to_string(const expert_id& expert) { return to_string(expert.layer) + "/" + std::to_string(expert.index); }

std::optional<expert_id> parse_expert(std::string_view text) {
  auto slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  auto layer = parse_layer(text.substr(0, slash));
  auto index = parse_number(text.substr(slash + 1), 0xffffffffU);
  if (!layer || !index) return std::nullopt;
  return expert_id{*layer, *index};
}

bool is_valid_node_name(std::string_view name) {
  auto is_alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (name.empty() || name.size() > 63 || !is_alphanumeric(name.front())) return false;
  for (char c : name) {
    if (!is_alphanumeric(c) && c != '.' && c != '-') return false;
  }
  return true;
}

}  // namespace troupe
