// What may come next on a command line of `troupe`, for completion in a shell. Pure.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace troupe::cli {

// Names that only a running cluster knows.
enum class live_name { none, node, expert, operation };

struct suggestion {
  std::string word;
  std::string help;  // may be empty
};

struct next_word {
  std::vector<suggestion> words;  // verbs, options, or the values of an option; empty: a file's name, or anything
  live_name live{live_name::none};
  std::filesystem::path data_dir;  // as the line says it; empty: it does not
};

// `before`: the words of the line between `troupe` and the one that is being typed, which is `begun` so far. What does
// not begin like it is for the caller to leave out.
[[nodiscard]] next_word complete(const CLI::App& root, std::span<const std::string> before, std::string_view begun);

}  // namespace troupe::cli
