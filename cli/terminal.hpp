// What a person sees besides the answer: errors, notes, questions, colour. All of it goes to standard error, so that
// standard output holds nothing but the answer in the format that was asked for. One thread.
#pragma once

#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::cli {

[[nodiscard]] bool stdin_is_terminal();
[[nodiscard]] bool stdout_is_terminal();
[[nodiscard]] bool stderr_is_terminal();
// A terminal, and neither NO_COLOR nor TERM=dumb.
[[nodiscard]] bool colour_wanted(bool is_terminal);

// Does the locale (LC_ALL, else LC_CTYPE, else LANG) say UTF-8?
[[nodiscard]] bool utf8_wanted();

// "error: MESSAGE"
void print_error(std::string_view message);
// A line of its own; nothing is added.
void print_note(std::string_view message);

// Says `impact` and asks. True at once with `assume_yes`, and where nobody can answer (no terminal): scripts mean what
// they say. False on anything but y or yes.
[[nodiscard]] bool confirm(std::string_view impact, bool assume_yes);

// Control characters (newlines too) and escape sequences of untrusted text made visible.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace troupe::cli
