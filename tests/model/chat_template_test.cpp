// Chat templates against Jinja2 (tests/golden/chat_templates/expected.json), what is refused, and the bounds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/chat_template/chat_template.hpp"

namespace troupe::model {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::filesystem::path goldens = std::filesystem::path(TROUPE_SOURCE_DIR) / "tests/golden";

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  EXPECT_TRUE(in) << path;
  return all.str();
}

const json& expected() {
  static const json document = json::parse(read(goldens / "chat_templates/expected.json"));
  return document;
}

std::unique_ptr<const chat_template> parsed(std::string_view source, std::string_view variables = "{}") {
  auto made = chat_template::parse(source, variables);
  EXPECT_TRUE(made) << made.error().message << "\n" << source;
  return made ? std::move(*made) : nullptr;
}

// Text where Jinja2 gives text, and an error where it gives one; raise_exception() word by word.
void compare(const json& wanted, const result<std::string>& got, const std::string& where) {
  if (wanted.contains("text")) {
    ASSERT_TRUE(got) << where << ": " << got.error().message;
    EXPECT_EQ(*got, wanted["text"].get<std::string>()) << where;
  } else {
    ASSERT_FALSE(got) << where << ": " << *got;
    EXPECT_EQ(got.error().code, errc::invalid_request);
    if (wanted["error"].is_string()) {
      EXPECT_EQ(got.error().message, wanted["error"].get<std::string>()) << where;
    }
  }
}

std::string refusal(std::string_view source) {
  auto made = chat_template::parse(source);
  EXPECT_FALSE(made) << source;
  return made ? "" : made.error().message;
}

result<std::string> run(std::string_view source, std::string_view messages = "[]") {
  auto made = chat_template::parse(source);
  if (!made) return fail(made.error());
  return (*made)->render(messages, true);
}

TEST(chat_templates, equal_jinja2_on_templates_in_the_style_of_published_ones) {
  const auto& document = expected();
  const auto special = document["special"].get<std::string>();
  EXPECT_GE(document["templates"].size(), 10U);
  for (const auto& entry : document["templates"]) {
    const auto name = entry["name"].get<std::string>();
    const auto made = parsed(read(goldens / "chat_templates/templates" / (name + ".jinja")), special);
    ASSERT_NE(made, nullptr);
    for (std::size_t i = 0; i < entry["cases"].size(); ++i) {
      const auto& chat = document["chats"][i];
      const auto messages = chat["messages"].get<std::string>();
      const auto extra = chat["extra"].get<std::string>();
      compare(entry["cases"][i],
              made->render(
                  {messages, chat["add_generation_prompt"].get<bool>(), extra, document["now"].get<std::int64_t>()}),
              name + " on chat " + std::to_string(i));
    }
  }
}

TEST(chat_templates, equal_jinja2_construct_by_construct) {
  const auto& document = expected();
  const auto variables = document["variables"].get<std::string>();
  for (const auto& entry : document["snippets"]) {
    const auto source = entry["source"].get<std::string>();
    const auto made = parsed(source, variables);
    ASSERT_NE(made, nullptr);
    const auto messages = document["messages"].get<std::string>();
    compare(entry, made->render({messages, true, "{}", document["now"].get<std::int64_t>()}), source);
  }
}

TEST(chat_templates, equal_transformers_on_the_golden_tokenizer) {
  const auto made = chat_template::open(goldens / "dev/tokenizer");
  ASSERT_TRUE(made) << made.error().message;
  const auto document = json::parse(read(goldens / "dev/tokenizer/tokenizer_cases.json"));
  ASSERT_EQ(document["chat"].size(), 6U);
  for (const auto& chat : document["chat"]) {
    compare(chat, (*made)->render(chat["messages"].dump(), chat["add_generation_prompt"].get<bool>()), chat.dump());
  }
}

TEST(chat_templates, what_is_not_supported_is_named_with_its_place) {
  EXPECT_EQ(refusal("a\n  {% include 'x' %}"), "2:6: construct {% include %} is not supported");
  EXPECT_EQ(refusal("{{ x | groupby('a') }}"), "1:8: construct filter 'groupby' is not supported");
  EXPECT_EQ(refusal("{{ x is escaped }}"), "1:9: construct test 'escaped' is not supported");
  EXPECT_EQ(refusal("{{ x.append(1) }}"), "1:6: construct .append() is not supported");
  EXPECT_EQ(refusal("{{ cycler('a') }}"), "1:4: construct cycler() is not supported");
  EXPECT_EQ(refusal("äö{{ f(*x) }}"), "1:8: construct f(*arguments) is not supported");
  EXPECT_EQ(refusal("{% for x in y recursive %}{% endfor %}"), "1:15: construct for ... recursive is not supported");
  for (const auto* tag : {"block x", "extends 'a'", "import 'a' as b", "from 'a' import b", "call f()", "raw",
                          "with a=1", "filter upper", "autoescape true", "do x", "trans"}) {
    EXPECT_THAT(refusal("{% " + std::string(tag) + " %}"), HasSubstr("is not supported")) << tag;
  }
  for (const auto* source : {"{{ 1 $ 2 }}", "{{ a ? b }}", "{{ 0x10 }}", "{{ '\\N{DASH}' }}", "{{ 'é' if é }}",
                             "{{ caller() }}", "{{ a[1, 2] }}", "{{ x is defined is true }}"}) {
    EXPECT_THAT(refusal(source), HasSubstr("is not supported")) << source;
  }
}

TEST(chat_templates, broken_syntax_is_refused_with_its_place) {
  for (const auto* source : {"{{",
                             "{{ 1",
                             "{% if x %}",
                             "{% if x %}{% endfor %}",
                             "{% endif %}",
                             "{% else %}",
                             "{# x",
                             "{{ 'x }}",
                             "{{ 1 + }}",
                             "{{ (1 }}",
                             "{{ [1, }}",
                             "{{ {1} }}",
                             "{{ a. }}",
                             "{{ a | }}",
                             "{{ a is }}",
                             "{% for in x %}{% endfor %}",
                             "{% for a of b %}{% endfor %}",
                             "{% set %}",
                             "{% set 1 = 2 %}",
                             "{% set x = %}",
                             "{% macro %}",
                             "{% macro m(a=1, b) %}{% endmacro %}",
                             "{% break %}",
                             "{% %}",
                             "{{ }}",
                             "{{ f(a=1, 2) }}",
                             "{{ 1 2 }}",
                             "{{ '\\x4' }}",
                             "{{ '\\ud800' }}",
                             "{{ ) }}",
                             "{{ in }}",
                             "{% set a, b %}{% endset %}"}) {
    EXPECT_THAT(refusal(source), ::testing::MatchesRegex("[0-9]+:[0-9]+: .*")) << source;
  }
}

TEST(chat_templates, errors_while_rendering_name_the_innermost_place) {
  EXPECT_EQ(run("x\n{% if true %}\n{{ messages[0].role }}{% endif %}").error().message,
            "chat template 3:16: 'item 0' is undefined");
  EXPECT_EQ(run("{% macro m() %}{{ none + 1 }}{% endmacro %}\n{{ m() }}").error().message,
            "chat template 1:24: '+' does not go with 'NoneType' and 'int'");
  EXPECT_THAT(run("{{ 'Ä' | upper }}").error().message, HasSubstr("construct upper case of text beyond ASCII"));
  EXPECT_THAT(run("{{ 1 }}", "not json").error().message, HasSubstr("not valid JSON"));
  EXPECT_THAT(run("{{ 1 }}", "[\"\xff\"]").error().message, HasSubstr("not valid JSON"));
}

TEST(chat_templates, w6_nesting_is_bounded) {
  const auto nested = [](std::string_view open, std::string_view middle, std::string_view close) {
    std::string out;
    for (int i = 0; i < 20'000; ++i) out += open;
    out += middle;
    for (int i = 0; i < 20'000; ++i) out += close;
    return out;
  };
  for (const auto& source : {"{{ " + nested("(", "1", ")") + " }}", "{{ " + nested("[", "", "]") + " }}",
                             "{{ " + nested("not ", "1", "") + " }}", "{{ " + nested("-", "1", "") + " }}",
                             "{{ a" + nested("[a", "", "]") + " }}", "{{ 1" + nested("+1", "", "") + " }}",
                             "{{ a" + nested(".a", "", "") + " }}", "{{ a" + nested("|trim", "", "") + " }}",
                             "{{ 1" + nested(" if 1", "", "") + " }}", nested("{%if a%}", "", "")}) {
    EXPECT_THAT(refusal(source), HasSubstr("too deeply")) << source.substr(0, 40);
  }
  EXPECT_THAT(run("{{ 1 }}", nested("[", "", "]")).error().message, HasSubstr("nested deeper than 64 levels"));
  EXPECT_THAT(run("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").error().message, HasSubstr("nested too deeply"));
}

TEST(chat_templates, steps_and_text_are_bounded) {
  EXPECT_THAT(run("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}").error().message,
              HasSubstr("too many steps"));
  EXPECT_THAT(
      run("{% set n = namespace(s='xxxxxxxxxx') %}{% for a in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}")
          .error()
          .message,
      HasSubstr("too much text"));
  EXPECT_THAT(run("{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}").error().message,
              HasSubstr("longer than"));
  const std::string grow = "{% set n = namespace(x=[1]) %}{% for a in range(1000) %}{% set n.x = ";
  EXPECT_THAT(run(grow + "[n.x, n.x] %}{% endfor %}").error().message, HasSubstr("too large"));
  EXPECT_THAT(run(grow + "[n.x] %}{% endfor %}").error().message, HasSubstr("nested too deeply"));
  EXPECT_THAT(run(grow + "[n] %}{% endfor %}").error().message, HasSubstr("inside of a list or dict"));
  EXPECT_THAT(run("{{ 'x' * 100000000000 }}").error().message, HasSubstr("too long"));
  EXPECT_THAT(run("{{ 9223372036854775807 + 1 }}{{ 2 ** 999 }}").error().message, HasSubstr("too large"));
  EXPECT_EQ(chat_template::parse(std::string(limits::chat_template_bytes_max + 1, 'x')).error().code, errc::too_large);
}

class template_folder : public ::testing::Test {
 protected:
  template_folder() : folder_(std::filesystem::path(::testing::TempDir()) / "chat_template_test") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~template_folder() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  [[nodiscard]] std::string rendered() const {
    auto made = chat_template::open(folder_);
    return made ? (*made)->render("[]", true).value_or("?") : made.error().message;
  }
  std::filesystem::path folder_;
};

TEST_F(template_folder, c7_without_a_template_says_so) {
  EXPECT_EQ(chat_template::open(folder_).error().code, errc::not_found);
  write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(chat_template::open(folder_).error().code, errc::not_found);
  EXPECT_THAT(rendered(), HasSubstr("chat_template.jinja"));
}

TEST_F(template_folder, takes_the_file_before_the_key_and_special_tokens_of_both_forms) {
  write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "unk_token": null, "chat_template": "{{ bos_token }}{{ eos_token }}{{ unk_token }}key"})");
  EXPECT_EQ(rendered(), "<s></s>key");
  write("chat_template.jinja", "{{ bos_token }}file\n");
  EXPECT_EQ(rendered(), "<s>file");
}

TEST_F(template_folder, of_several_templates_the_default_counts) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "{{ no }}t"}, {"name": "default", "template": "d"}]})");
  EXPECT_EQ(rendered(), "d");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "t"}]})");
  EXPECT_EQ(chat_template::open(folder_).error().code, errc::not_found);
}

TEST_F(template_folder, broken_files_are_errors) {
  write("tokenizer_config.json", "{");
  EXPECT_THAT(rendered(), StartsWith("tokenizer_config.json: not valid JSON"));
  write("tokenizer_config.json", R"({"chat_template": "{% block x %}"})");
  EXPECT_THAT(rendered(), AllOf(StartsWith("1:4: "), HasSubstr("{% block %}")));
}

}  // namespace
}  // namespace troupe::model
