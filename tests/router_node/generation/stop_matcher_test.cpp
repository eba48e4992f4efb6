#include "router_node/core/generation/stop_matcher.hpp"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

namespace troupe::router {
namespace {

struct shown {
  std::string text;
  std::optional<std::string> match;
  friend bool operator==(const shown&, const shown&) = default;
};

shown run(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  stop_matcher matcher(stops);
  shown all;
  for (const auto& text : pieces) {
    auto piece = matcher.push(text);
    all.text += piece.text;
    if (piece.match) all.match = piece.match;
  }
  all.text += matcher.finish();
  return all;
}

// The definition, by trying every end of the text.
shown reference(const std::vector<std::string>& stops, const std::string& text) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    const auto head = text.substr(0, end);
    std::optional<std::string> longest;
    for (const auto& stop : stops) {
      if (!stop.empty() && head.ends_with(stop) && (!longest || stop.size() > longest->size())) longest = stop;
    }
    if (longest) return {head.substr(0, end - longest->size()), longest};
  }
  return {text, std::nullopt};
}

TEST(stop_matcher, shows_everything_at_once_without_stop_strings) {
  stop_matcher matcher({});
  EXPECT_EQ(matcher.push("some text").text, "some text");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(stop_matcher, holds_back_only_what_could_be_a_beginning) {
  stop_matcher matcher({"\n\nQ:"});
  EXPECT_EQ(matcher.push("one\n").text, "one");
  EXPECT_EQ(matcher.push("two").text, "\ntwo");
  EXPECT_EQ(matcher.push("\n").text, "");
  EXPECT_EQ(matcher.push("\n").text, "");
  EXPECT_EQ(matcher.push("\n").text, "\n");  // the last two may still be it
  EXPECT_EQ(matcher.push("Q").text, "");
  const auto last = matcher.push(": and more");
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.match, "\n\nQ:");
  EXPECT_EQ(matcher.push("more").text, "") << "the text is over";
  EXPECT_EQ(matcher.finish(), "");
}

TEST(stop_matcher, finish_gives_what_was_held_back) {
  stop_matcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("a STO").text, "a ");
  EXPECT_EQ(matcher.finish(), "STO");
}

TEST(stop_matcher, the_first_complete_one_wins_and_of_these_the_longest) {
  EXPECT_EQ(run({"abcd", "bc"}, {"xabcd"}), (shown{"xa", "bc"}));
  EXPECT_EQ(run({"bc", "abc"}, {"xab", "c"}), (shown{"x", "abc"}));
  EXPECT_EQ(run({"late", "early"}, {"an early and a late one"}), (shown{"an ", "early"}));
}

TEST(stop_matcher, never_shows_half_a_character) {
  stop_matcher matcher({"\xc3\xa9t\xc3\xa9"});  // "été"
  EXPECT_EQ(matcher.push("\xc3\xa8").text, "\xc3\xa8");
  EXPECT_EQ(matcher.push("\xc3\xa9").text, "");
  EXPECT_EQ(matcher.push("\xc3\xa8").text, "\xc3\xa9\xc3\xa8");
}

// Random texts over two letters, cut at random: the cuts make no difference, and text is shown as early as it can be.
TEST(stop_matcher, equals_the_definition_however_the_text_is_cut) {
  std::mt19937_64 random(1);
  const auto pick = [&random](std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(random);
  };
  const auto letters = [&](std::size_t length) {
    std::string text;
    for (std::size_t i = 0; i < length; ++i) text.push_back(pick(0, 2) == 0 ? 'b' : 'a');
    return text;
  };
  std::size_t matches = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (auto n = pick(0, 3); n > 0; --n) stops.push_back(letters(pick(0, 7)));
    const auto text = letters(pick(0, 40));
    const auto wanted = reference(stops, text);
    stop_matcher matcher(stops);
    std::string seen;
    std::optional<std::string> match;
    for (std::size_t at = 0; at < text.size() && !match;) {
      const auto length = pick(1, 5);
      const auto piece = matcher.push(std::string_view(text).substr(at, length));
      at = std::min(at + length, text.size());
      seen += piece.text;
      match = piece.match;
      if (match) break;
      const auto held = text.substr(seen.size(), at - seen.size());
      const bool has_to_wait = std::ranges::any_of(stops, [&held](const auto& stop) { return stop.starts_with(held); });
      EXPECT_TRUE(held.empty() || has_to_wait) << "'" << held << "' of '" << text << "' was held back for nothing";
    }
    seen += matcher.finish();
    ASSERT_EQ(seen, wanted.text) << "of " << text;
    ASSERT_EQ(match, wanted.match) << "of " << text;
    matches += match.has_value();
  }
  EXPECT_GT(matches, 1000U);
}

}  // namespace
}  // namespace troupe::router
