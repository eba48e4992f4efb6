// What a chat knows: the messages so far, and what a typed line means. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::cli {

class conversation {
 public:
  explicit conversation(std::string system = {}) : system_(std::move(system)) {}

  void ask(std::string text) { messages_.push_back({"user", std::move(text)}); }
  // What came of it, also when it was stopped. An empty answer takes its question back.
  void answer(std::string text);
  // Takes back the last question, which has no answer.
  void take_back();
  // Begins anew, with the same system message.
  void reset() { messages_.clear(); }
  // Begins anew with this system message; empty: none.
  void set_system(std::string text);
  [[nodiscard]] const std::string& system() const { return system_; }
  [[nodiscard]] std::size_t size() const { return messages_.size(); }

  // A JSON list [{"role", "content"}]. Bytes that are no UTF-8 become U+FFFD.
  [[nodiscard]] std::string json() const;

 private:
  struct message {
    std::string role;
    std::string text;
  };
  std::string system_;
  std::vector<message> messages_;
};

enum class chat_command { help, reset, system, quit, unknown };

struct chat_line {
  std::optional<chat_command> command;  // none: `text` is for the model
  std::string text;                     // of a command: what follows its name; of an unknown one: its name
};

// "/system be brief" is a command, "// text" the message "/ text", everything else a message.
[[nodiscard]] chat_line parse_chat_line(std::string_view line);

inline constexpr std::string_view chat_help =
    "/system TEXT  begin anew with this system message (without TEXT: with none)\n"
    "/reset        begin anew\n"
    "/help         this list\n"
    "/quit         end, as Ctrl-D does; Ctrl-C stops an answer\n"
    "A line that begins with // is a message that begins with /.\n";

}  // namespace troupe::cli
