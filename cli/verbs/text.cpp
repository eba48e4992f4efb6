// troupe generate, troupe chat.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/conversation.hpp"
#include "cli/interrupt.hpp"
#include "cli/line_editor.hpp"
#include "cli/terminal.hpp"
#include "cli/text_options.hpp"

namespace troupe::cli {
namespace {

struct generate_request {
  std::string prompt;  // "-": standard input
  bool is_chat{};
  std::string system;
  text_options options;
};

// Ctrl-C since this was made ends what is under way.
class stop_wish {
 public:
  [[nodiscard]] bool is_there() const { return interrupt_count() != before_; }

 private:
  int before_{interrupt_count()};
};

json document_of(const client::generate_summary& summary, const std::vector<client::token>& tokens) {
  std::string text;
  json list = json::array();
  for (const auto& token : tokens) {
    text += token.text;
    if (!token.id) continue;
    json one = {{"id", *token.id}, {"text", token.text}};
    if (token.logprob) one["logprob"] = *token.logprob;
    one["exact"] = token.exact();
    list.push_back(std::move(one));
  }
  return {{"text", text},
          {"finish_reason", to_string(summary.reason)},
          {"seed", summary.seed},
          {"usage",
           {{"prompt_tokens", summary.prompt_tokens},
            {"cached_tokens", summary.cached_tokens},
            {"completion_tokens", summary.reason == client::finish_reason::none ? list.size() : summary.answer_tokens},
            {"approximate_tokens", summary.approximate_tokens}}},
          {"tokens", std::move(list)}};
}

client::prompt prompt_of(const generate_request& request) {
  std::string text = request.prompt;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  if (!request.is_chat) return text;
  conversation talk(request.system);
  talk.ask(std::move(text));
  return client::chat_messages{talk.json()};
}

result<exit_code> generate(const session& s, const generate_request& request) {
  if (!request.system.empty() && !request.is_chat) {
    print_error("--system needs --chat: only chat templates know system messages");
    return exit_code::usage;
  }
  auto options = checked(request.options);
  if (!options) {
    print_error(options.error().message);
    return exit_code::usage;
  }
  install_interrupt_handler();
  auto cluster = connect(s);
  if (!cluster) return fail(cluster.error());
  const stop_wish stop;
  options->is_wanted = [&] { return !stop.is_there(); };
  const bool streams = s.prints_pages();
  std::vector<client::token> tokens;
  bool has_text = false;
  const auto prompt = prompt_of(request);
  const auto summary = guarded<client::generate_summary>([&] {
    return cluster->generate(prompt, *options, [&](const client::token& token) {
      has_text = true;
      if (streams) print_text(token.text);
      if (!streams) tokens.push_back(token);
      return !stop.is_there();
    });
  });
  if (streams && (summary || has_text)) print_text("\n");
  if (!summary) return fail(summary.error());
  if (summary->approximate_tokens > 0) {
    print_note(fmt::format("{} of {} tokens are approximate: experts were missing", summary->approximate_tokens,
                           summary->answer_tokens));
  }
  if (!streams) s.print(document_of(*summary, tokens), {.items = {}, .columns = {}, .name = "{text}"});
  return summary->reason == client::finish_reason::none ? exit_code::interrupted : exit_code::ok;
}

// -- chat ---------------------------------------------------------------------------------------------------------

struct chat_request {
  std::string system;
  text_options options;
};

// False: the person wants to leave.
bool obey(const chat_line& line, conversation& talk) {
  switch (*line.command) {
    case chat_command::help:
      print_note(chat_help);
      return true;
    case chat_command::reset:
      talk.reset();
      print_note("begun anew");
      return true;
    case chat_command::system:
      talk.set_system(line.text);
      print_note(line.text.empty() ? "begun anew without a system message" : "begun anew with this system message");
      return true;
    case chat_command::quit:
      return false;
    case chat_command::unknown:
      print_note(fmt::format("no command {}; /help lists them", printable(line.text)));
      return true;
  }
  return true;
}

// One question and its answer; errors are told and the chat goes on.
result<void> answer(client::cluster& cluster, conversation& talk, client::generate_options options) {
  const stop_wish stop;
  options.is_wanted = [&] { return !stop.is_there(); };
  std::string text;
  const auto summary = guarded<client::generate_summary>([&] {
    return cluster.generate(client::chat_messages{talk.json()}, options, [&](const client::token& token) {
      print_text(token.text);
      text += token.text;
      return !stop.is_there();
    });
  });
  print_text("\n");
  talk.answer(std::move(text));
  if (!summary) return fail(summary.error());
  return {};
}

result<exit_code> chat(const session& s, const chat_request& request) {
  auto options = checked(request.options);
  if (!options) {
    print_error(options.error().message);
    return exit_code::usage;
  }
  install_interrupt_handler();
  const auto folder = s.data_dir();
  if (!folder) return fail(folder.error());
  auto cluster = connect(s);
  if (!cluster) return fail(cluster.error());
  const bool is_terminal = ::isatty(STDIN_FILENO) == 1;
  if (is_terminal) print_note("Ctrl-C stops an answer, Ctrl-D ends, /help lists commands");
  line_editor editor(*folder / "chat_history");
  conversation talk(request.system);
  auto outcome = exit_code::ok;
  while (true) {
    const auto typed = editor.read(">>> ");
    if (typed.ended == line_editor::how::end_of_input) return outcome;
    if (typed.ended == line_editor::how::interrupted) {
      if (!is_terminal) return exit_code::interrupted;
      continue;
    }
    if (typed.line.find_first_not_of(" \t") == std::string::npos) continue;
    auto line = parse_chat_line(typed.line);
    if (line.command) {
      if (!obey(line, talk)) return outcome;
      continue;
    }
    talk.ask(std::move(line.text));
    const auto answered = answer(*cluster, talk, *options);
    if (answered) continue;
    // A person sees the error and decides; a script is told in the end.
    print_error(answered.error().message);
    if (!is_terminal) outcome = exit_code_of(answered.error().code);
  }
}

}  // namespace

void add_text_verbs(verb_registry& verbs) {
  auto asked = std::make_shared<generate_request>();
  auto& generate_verb = verbs.verb("generate", "Let the model go on with a text; prints it as it comes.",
                                   "  troupe generate 'def add(a, b):' --max-tokens 64\n"
                                   "  troupe generate --chat 'Why is the sky blue?' --temperature 0\n"
                                   "  troupe generate - -o json < prompt.txt",
                                   [asked](const session& s) { return generate(s, *asked); });
  generate_verb.add_option("prompt", asked->prompt, "the text; -: standard input")->required()->type_name("PROMPT");
  generate_verb.add_flag("--chat", asked->is_chat, "PROMPT is a message to the model, through its chat template");
  generate_verb.add_option("--system", asked->system, "what the model is told first; with --chat")->type_name("TEXT");
  add_text_options(generate_verb, asked->options);

  auto talked = std::make_shared<chat_request>();
  auto& chat_verb = verbs.verb("chat", "Talk with the model, line by line.",
                               "  troupe chat\n"
                               "  troupe chat --system 'Answer in one sentence.' --temperature 0.7\n"
                               "  printf 'Hello\\nAnd now in French\\n' | troupe chat",
                               [talked](const session& s) { return chat(s, *talked); });
  chat_verb.add_option("--system", talked->system, "what the model is told first")->type_name("TEXT");
  add_text_options(chat_verb, talked->options);
}

}  // namespace troupe::cli
