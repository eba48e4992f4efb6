// troupe completion bash, zsh and fish; and what their scripts ask for each word.
#include "cli/completion.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/application.hpp"

namespace troupe::cli {
namespace {

// Each asks `troupe completion words` for lines of a word, a tab and what it does. A line without candidates is
// completed with names of files.
constexpr const char* bash_script = R"script(_troupe() {
  local line words=()
  while IFS= read -r line; do
    words+=("${line%%$'\t'*}")
  done < <("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  local begun=${COMP_WORDS[COMP_CWORD]}
  [[ $begun == "=" ]] && begun=
  COMPREPLY=($(compgen -W "${words[*]}" -- "$begun"))
}
complete -o bashdefault -o default -F _troupe troupe
)script";

constexpr const char* zsh_script = R"script(#compdef troupe
_troupe() {
  local line
  local -a described
  for line in "${(@f)$("${words[1]}" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ $line == *$'\t'?* ]] && line="${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}"
    [[ -n $line ]] && described+=("${line%$'\t'}")
  done
  if (( $#described )); then
    _describe 'troupe' described
  else
    _files
  fi
}
compdef _troupe troupe
)script";

constexpr const char* fish_script = R"script(function __troupe_words
  set -l before (commandline -opc)
  set -l words ($before[1] completion words -- $before[2..] (commandline -ct) 2>/dev/null)
  if test (count $words) -gt 0
    printf '%s\n' $words
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c troupe -f -k -a '(__troupe_words)'
)script";

struct live_list {
  query_kind kind;
  const char* name;
};

live_list list_of(live_name wanted) {
  switch (wanted) {
    case live_name::expert:
      return {query_kind::experts, "{layer}/{expert}"};
    case live_name::operation:
      return {query_kind::operations, "{id}"};
    default:
      return {query_kind::nodes, "{name}"};
  }
}

// Lines of names, of the cluster that the line is about. None when it cannot be asked: a shell shows no errors here.
std::string live_names(const session& s, const next_word& next) {
  if (next.live == live_name::none) return {};
  auto options = s.options();
  if (!next.data_dir.empty()) options.data_dir = next.data_dir;
  const auto [kind, name] = list_of(next.live);
  const auto list = session{options}.coordinator().and_then([&](admin_client c) { return c.ask({kind}); });
  return list ? render(*list, output_format::name, {.items = "items", .columns = {}, .name = name}) : std::string{};
}

result<exit_code> print_next(const session& s, const CLI::App& root, std::vector<std::string> line) {
  const std::string begun = line.empty() ? std::string{} : std::move(line.back());
  if (!line.empty()) line.pop_back();
  const auto next = complete(root, line, begun);
  for (const auto& [word, help] : next.words) {
    if (word.starts_with(begun) || begun == "=") std::cout << word << '\t' << help.substr(0, help.find('\n')) << '\n';
  }
  std::cout << live_names(s, next) << std::flush;
  return exit_code::ok;
}

}  // namespace

void add_completion_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("completion", "Completion of verbs, options and names in a shell: a script for it.");
  const auto add = [&](const char* shell, const char* script, const char* examples) {
    verbs.verb(noun, shell, fmt::format("The script for {}, to standard output.", shell), examples,
               [script](const session&) -> result<exit_code> {
                 std::cout << script << std::flush;
                 return exit_code::ok;
               });
  };
  add("bash", bash_script,
      "  source <(troupe completion bash)\n"
      "  troupe completion bash > ~/.local/share/bash-completion/completions/troupe");
  add("zsh", zsh_script,
      "  source <(troupe completion zsh)\n"
      "  troupe completion zsh > \"${fpath[1]}/_troupe\"");
  add("fish", fish_script,
      "  troupe completion fish | source\n"
      "  troupe completion fish > ~/.config/fish/completions/troupe.fish");
  auto line = std::make_shared<std::vector<std::string>>();
  auto& words = verbs.verb(noun, "words", "What may come next on a line; for those scripts.", "",
                           [line, &verbs](const session& s) { return print_next(s, verbs.root(), *line); });
  words.add_option("line", *line);
  words.group("");
}

}  // namespace troupe::cli
