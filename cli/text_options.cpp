#include "cli/text_options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>

#include "cli/terminal.hpp"
#include "common/limits.hpp"

namespace troupe::cli {

void add_text_options(CLI::App& verb, text_options& options) {
  auto& to = options.generate;
  verb.add_option("--max-tokens", to.max_tokens, "of the answer [what the context has room for]")
      ->check(CLI::PositiveNumber);
  verb.add_option("--temperature", to.temperature, "0: always the likeliest token [1]")
      ->check(CLI::Range(0.0, limits::temperature_max));
  verb.add_option("--top-k", to.top_k, "choose among so many tokens; 0: all [0]");
  verb.add_option("--top-p", to.top_p, "choose among the likeliest that have this share together [1]")
      ->check(CLI::Range(1e-6, 1.0));
  verb.add_option("--min-p", to.min_p, "choose among those that have this share of the likeliest one's [0]")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--repetition-penalty", to.repetition_penalty, "above 1: fewer tokens of prompt and answer [1]")
      ->check(CLI::Range(limits::repetition_penalty_min, limits::repetition_penalty_max));
  verb.add_option("--presence-penalty", to.presence_penalty, "above 0: fewer tokens of the answer [0]")
      ->check(CLI::Range(-limits::added_penalty_max, limits::added_penalty_max));
  verb.add_option("--frequency-penalty", to.frequency_penalty, "the same, by how often they came [0]")
      ->check(CLI::Range(-limits::added_penalty_max, limits::added_penalty_max));
  verb.add_option("--logit-bias", options.logit_bias, "added to a token's logit")->type_name("ID:BIAS");
  verb.add_option("--seed", to.seed, "the same seed, the same text [a new one]");
  verb.add_option("--stop", to.stop, "end before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  verb.add_flag("--ignore-eos", to.ignore_eos, "go on where the model would end");
  verb.add_option("--degrade", options.degrade,
                  "when an expert is missing: wait, substitute, renormalise or fail [wait]")
      ->check(CLI::IsMember({"wait", "substitute", "renormalise", "fail"}));
  add_duration(verb, "--timeout", options.timeout, "for a whole answer [10m]");
}

namespace {

result<std::pair<std::uint32_t, float>> parse_bias(const std::string& text) {
  std::uint32_t id = 0;
  float bias = 0;
  const char* const end = text.data() + text.size();
  const auto [colon, failure] = std::from_chars(text.data(), end, id);
  if (failure == std::errc{} && colon != end && *colon == ':') {
    const auto [rest, bad] = std::from_chars(colon + 1, end, bias);
    if (bad == std::errc{} && rest == end) return std::pair{id, bias};
  }
  return fail(errc::invalid_request, fmt::format("--logit-bias {}: write a token id and a number, e.g. 42:-5", text));
}

}  // namespace

result<client::generate_options> checked(const text_options& options) {
  auto to = options.generate;
  for (const auto& text : options.logit_bias) {
    const auto bias = parse_bias(text);
    if (!bias) return fail(bias.error());
    to.logit_bias.insert_or_assign(bias->first, bias->second);
  }
  to.policy = options.degrade == "substitute"    ? client::degrade::substitute
              : options.degrade == "renormalise" ? client::degrade::renormalise
              : options.degrade == "fail"        ? client::degrade::fail
                                                 : client::degrade::wait;
  to.timeout = options.timeout;
  return to;
}

result<client::cluster> connect(const session& s) {
  const auto folder = s.data_dir();
  if (!folder) return fail(folder.error());
  return guarded<client::cluster>([&] {
    client::connect_options where;
    where.data_dir = *folder;
    return client::cluster::connect(where);
  });
}

std::string terminal_text(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

void print_text(std::string_view text) {
  if (text.empty()) return;
  if (stdout_is_terminal()) {
    std::cout << terminal_text(text) << std::flush;
  } else {
    std::cout << text << std::flush;
  }
}

std::string_view to_string(client::finish_reason reason) {
  switch (reason) {
    case client::finish_reason::stop:
      return "stop";
    case client::finish_reason::length:
      return "length";
    case client::finish_reason::none:
      return "cancelled";
  }
  return "cancelled";
}

}  // namespace troupe::cli
