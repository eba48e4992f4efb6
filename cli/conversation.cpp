#include "cli/conversation.hpp"

#include <nlohmann/json.hpp>

namespace troupe::cli {

void conversation::answer(std::string text) {
  if (text.empty()) return take_back();
  messages_.push_back({"assistant", std::move(text)});
}

void conversation::take_back() {
  if (!messages_.empty() && messages_.back().role == "user") messages_.pop_back();
}

void conversation::set_system(std::string text) {
  system_ = std::move(text);
  reset();
}

std::string conversation::json() const {
  auto list = nlohmann::ordered_json::array();
  if (!system_.empty()) list.push_back({{"role", "system"}, {"content", system_}});
  for (const auto& [role, text] : messages_) list.push_back({{"role", role}, {"content", text}});
  return list.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

chat_line parse_chat_line(std::string_view line) {
  if (!line.starts_with('/')) return {std::nullopt, std::string(line)};
  if (line.starts_with("//")) return {std::nullopt, std::string(line.substr(1))};
  const auto space = line.find(' ');
  const auto name = line.substr(0, space);
  auto rest = space == std::string_view::npos ? std::string_view{} : line.substr(space);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  if (name == "/help" || name == "/?") return {chat_command::help, {}};
  if (name == "/reset" || name == "/clear") return {chat_command::reset, {}};
  if (name == "/system") return {chat_command::system, std::string(rest)};
  if (name == "/quit" || name == "/exit" || name == "/bye") return {chat_command::quit, {}};
  return {chat_command::unknown, std::string(name)};
}

}  // namespace troupe::cli
