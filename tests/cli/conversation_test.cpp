// What a chat knows, and what a typed line means.
#include "cli/conversation.hpp"

#include <gtest/gtest.h>

namespace troupe::cli {
namespace {

TEST(conversation, is_a_list_of_messages) {
  conversation talk("be brief");
  talk.ask("hi");
  talk.answer("hello");
  talk.ask("bye");
  EXPECT_EQ(talk.json(), R"([{"role":"system","content":"be brief"},{"role":"user","content":"hi"},)"
                         R"({"role":"assistant","content":"hello"},{"role":"user","content":"bye"}])");
}

TEST(conversation, a_question_without_an_answer_is_taken_back) {
  conversation talk;
  talk.ask("hi");
  talk.answer("");
  EXPECT_EQ(talk.json(), "[]");
  talk.take_back();
  EXPECT_EQ(talk.size(), 0U);
}

TEST(conversation, begins_anew) {
  conversation talk("a");
  talk.ask("hi");
  talk.reset();
  EXPECT_EQ(talk.json(), R"([{"role":"system","content":"a"}])");
  talk.ask("hi");
  talk.set_system("");
  EXPECT_EQ(talk.json(), "[]");
}

TEST(conversation, bytes_that_are_no_text_do_not_end_it) {
  conversation talk;
  talk.ask("\xff");
  EXPECT_EQ(talk.json(), "[{\"role\":\"user\",\"content\":\"\xef\xbf\xbd\"}]");
}

TEST(parse_chat_line, knows_commands) {
  EXPECT_EQ(parse_chat_line("/help").command, chat_command::help);
  EXPECT_EQ(parse_chat_line("/reset").command, chat_command::reset);
  EXPECT_EQ(parse_chat_line("/quit").command, chat_command::quit);
  const auto system = parse_chat_line("/system  be brief ");
  EXPECT_EQ(system.command, chat_command::system);
  EXPECT_EQ(system.text, "be brief ");
  EXPECT_EQ(parse_chat_line("/system").text, "");
  const auto unknown = parse_chat_line("/sytem be brief");
  EXPECT_EQ(unknown.command, chat_command::unknown);
  EXPECT_EQ(unknown.text, "/sytem");
}

TEST(parse_chat_line, everything_else_is_a_message) {
  EXPECT_EQ(parse_chat_line("what is 1/2?").command, std::nullopt);
  EXPECT_EQ(parse_chat_line("//etc/passwd?").text, "/etc/passwd?");
  EXPECT_EQ(parse_chat_line("//etc").command, std::nullopt);
}

}  // namespace
}  // namespace troupe::cli
