// Makes text from elsewhere harmless in logs and on terminals (faults.md H9). Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>

namespace troupe::daemon {

// Newlines, other control characters (ANSI sequences begin with one), and bytes that are no UTF-8 become \n, \t or
// \xHH. All other text stays as it is.
[[nodiscard]] std::string escape_text(std::string_view text);

// The same, and fit for between the quotes of a JSON string.
[[nodiscard]] std::string escape_json(std::string_view text);

}  // namespace troupe::daemon
