#include "cli/completion.hpp"

#include <CLI/CLI.hpp>
#include <utility>

namespace troupe::cli {
namespace {

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

// "FORMAT:{table,json}" has two.
std::vector<suggestion> choices_of(const CLI::Option& option) {
  const auto type = option.get_type_name();
  const auto begin = type.find('{');
  const auto end = type.find('}', begin);
  std::vector<suggestion> choices;
  if (begin == std::string::npos || end == std::string::npos) return choices;
  for (const auto& word : CLI::detail::split(type.substr(begin + 1, end - begin - 1), ','))
    choices.push_back({word, ""});
  return choices;
}

live_name live_name_of(const CLI::Option& value) {
  const auto type = value.get_type_name();
  return type == "NODE"  ? live_name::node
         : type == "L/E" ? live_name::expert
         : type == "ID"  ? live_name::operation
                         : live_name::none;
}

// A walk along the line: in which verb it is, which option waits for its value, how many other values there were.
class walk {
 public:
  explicit walk(const CLI::App& root) : root_{root}, here_{&root} {}

  void take(const std::string& word) {
    if (word == "=") return;  // bash cuts --option=value in three
    if (waiting_ != nullptr) return take_value(word);
    if (word.starts_with('-')) return take_option(word);
    if (const auto* verb = find_verb(word); verb != nullptr) {
      here_ = verb;
    } else {
      ++values_;
    }
  }

  [[nodiscard]] next_word end() const {
    if (waiting_ != nullptr) return {choices_of(*waiting_), live_name_of(*waiting_), data_dir_};
    next_word next{{}, live_name::none, data_dir_};
    if (const auto* value = next_value()) {
      next.words = choices_of(*value);
      next.live = live_name_of(*value);
      return next;
    }
    for (const auto* verb : here_->get_subcommands([](const CLI::App*) { return true; })) {
      if (!verb->get_group().empty()) next.words.push_back({verb->get_name(), verb->get_description()});
    }
    if (next.words.empty()) add_options(*here_, next.words);
    return next;
  }

  [[nodiscard]] next_word options() const {
    next_word next{{}, live_name::none, data_dir_};
    add_options(*here_, next.words);
    if (here_ != &root_) add_options(root_, next.words);
    return next;
  }

 private:
  void take_option(const std::string& word) {
    const auto equals = word.find('=');
    const auto* option = find_option(word.substr(0, equals));
    if (option == nullptr || !takes_value(*option)) return;
    waiting_ = option;
    if (equals != std::string::npos) take_value(word.substr(equals + 1));
  }

  void take_value(const std::string& word) {
    if (std::exchange(waiting_, nullptr)->check_lname("data-dir")) data_dir_ = word;
  }

  [[nodiscard]] const CLI::App* find_verb(const std::string& name) const {
    const auto found = here_->get_subcommands([&](const CLI::App* verb) { return verb->check_name(name); });
    return found.empty() ? nullptr : found.front();
  }

  // Options of the program may stand behind any verb.
  [[nodiscard]] const CLI::Option* find_option(const std::string& name) const {
    const auto* own = here_->get_option_no_throw(name);
    return own != nullptr ? own : root_.get_option_no_throw(name);
  }

  [[nodiscard]] const CLI::Option* next_value() const {
    std::size_t place = 0;
    for (const auto* option : here_->get_options([](const CLI::Option* o) { return o->get_positional(); })) {
      if (place++ == values_) return option;
    }
    return nullptr;
  }

  static void add_options(const CLI::App& app, std::vector<suggestion>& words) {
    for (const auto* option : app.get_options()) {
      if (option->get_group().empty()) continue;
      for (const auto& name : option->get_lnames()) words.push_back({"--" + name, option->get_description()});
    }
  }

  const CLI::App& root_;
  const CLI::App* here_;
  const CLI::Option* waiting_{};
  std::size_t values_{};
  std::filesystem::path data_dir_;
};

}  // namespace

next_word complete(const CLI::App& root, std::span<const std::string> before, std::string_view begun) {
  walk line{root};
  for (const auto& word : before) line.take(word);
  return begun.starts_with('-') ? line.options() : line.end();
}

}  // namespace troupe::cli
