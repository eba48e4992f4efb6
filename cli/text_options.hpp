// What `generate`, `chat` and `bench generate` have in common: the sampling flags, the connection, text on a terminal.
// One thread.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/application.hpp"
#include "troupe/client.hpp"

namespace troupe::cli {

// Flags as they are typed; names, ranges and defaults are those of the HTTP API.
struct text_options {
  client::generate_options generate;
  std::vector<std::string> logit_bias;  // ID:BIAS
  std::string degrade{"wait"};
  std::chrono::milliseconds timeout{600'000};
};

void add_text_options(CLI::App& verb, text_options& options);
// invalid_request names the flag.
[[nodiscard]] result<client::generate_options> checked(const text_options& options);

// A connection to the cluster that was asked for. unavailable: no router answers there.
[[nodiscard]] result<client::cluster> connect(const session& s);

// `call`'s result; an error that the client throws becomes one of ours.
template <class Value>
[[nodiscard]] result<Value> guarded(const std::function<Value()>& call) {
  try {
    return call();
  } catch (const client::error& problem) {
    return fail(static_cast<errc>(problem.code()), problem.what());
  }
}

// Text of a model as a terminal may see it: control characters other than newline and tab are made visible, since
// escape sequences could change what the person sees.
[[nodiscard]] std::string terminal_text(std::string_view text);
// Writes to standard output at once; through terminal_text() where that is a terminal.
void print_text(std::string_view text);

[[nodiscard]] std::string_view to_string(client::finish_reason reason);

}  // namespace troupe::cli
