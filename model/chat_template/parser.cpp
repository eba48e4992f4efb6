#include "model/chat_template/parser.hpp"

#include <algorithm>
#include <initializer_list>
#include <set>

#include <fmt/format.h>

#include "model/chat_template/expression_parser.hpp"
#include "model/chat_template/library.hpp"

namespace troupe::model::jinja {
namespace {

class parser {
 public:
  explicit parser(std::string_view source) : in_(lex(source)) {}

  block run() {
    auto statements = parse_block({});
    check_calls();
    return statements;
  }

 private:
  // Up to one of the tags in `ends`, whose name is the current token then; at the top up to the end of the template.
  block parse_block(std::initializer_list<std::string_view> ends) {
    const expression_parser::nesting guard(in_);
    block statements;
    for (;;) {
      if (in_.current().kind == token_kind::end) {
        if (ends.size() != 0) in_.fail_here(fmt::format("{{% {} %}}", *(ends.end() - 1)));
        return statements;
      }
      auto opening = in_.take();
      if (opening.kind == token_kind::text) {
        auto& made = add(statements, statement_kind::text, opening.at);
        made.text = std::move(opening.text);
      } else if (opening.kind == token_kind::open_value) {
        auto& made = add(statements, statement_kind::output, opening.at);
        made.subject = in_.parse_expression();
        close(token_kind::close_value);
      } else {
        if (std::ranges::any_of(ends, [this](auto end) { return in_.is_name(end); })) return statements;
        statements.push_back(parse_tag());
      }
    }
  }

  static statement& add(block& to, statement_kind kind, position at) {
    auto& made = to.emplace_back();
    made.kind = kind;
    made.at = at;
    return made;
  }

  void close(token_kind kind) {
    if (in_.current().kind != kind) in_.fail_here(kind == token_kind::close_block ? "'%}'" : "'}}'");
    in_.take();
  }

  // {% end %}, with the cursor on its name.
  void finish(std::string_view end) {
    if (!in_.take_name(end)) in_.fail_here(fmt::format("{{% {} %}}", end));
    close(token_kind::close_block);
  }

  statement parse_tag() {
    statement made;
    made.at = in_.current().at;
    const auto name = in_.current().kind == token_kind::name ? in_.take().text : std::string();
    if (name == "if") {
      parse_choice(made);
    } else if (name == "for") {
      parse_loop(made);
    } else if (name == "set") {
      parse_set(made);
    } else if (name == "macro") {
      parse_macro(made);
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(made.at, fmt::format("'{}' outside of a loop", name));
      made.kind = name == "break" ? statement_kind::stop : statement_kind::next;
      close(token_kind::close_block);
    } else if (name == "generation") {
      made.kind = statement_kind::group;
      close(token_kind::close_block);
      made.body = parse_block({"endgeneration"});
      finish("endgeneration");
    } else {
      if (name.empty()) in_.fail_here("the name of a tag");
      refuse_construct(made.at, fmt::format("{{% {} %}}", name));
    }
    return made;
  }

  void parse_choice(statement& made) {
    made.kind = statement_kind::choice;
    for (;;) {
      auto condition = in_.parse_without_choice();
      close(token_kind::close_block);
      made.branches.emplace_back(std::move(condition), parse_block({"elif", "else", "endif"}));
      if (in_.take_name("elif")) continue;
      if (in_.take_name("else")) {
        close(token_kind::close_block);
        made.branches.emplace_back(nullptr, parse_block({"endif"}));
      }
      return finish("endif");
    }
  }

  void parse_loop(statement& made) {
    made.kind = statement_kind::loop;
    do made.targets.push_back(new_name());
    while (in_.take_symbol(","));
    if (!in_.take_name("in")) in_.fail_here("'in'");
    made.subject = in_.parse_maybe_tuple(false);
    if (in_.take_name("if")) made.filter = in_.parse_expression();
    if (in_.is_name("recursive")) refuse_construct(in_.current().at, "for ... recursive");
    close(token_kind::close_block);
    ++loops_;
    made.body = parse_block({"else", "endfor"});
    --loops_;
    if (in_.take_name("else")) {
      close(token_kind::close_block);
      made.alternative = parse_block({"endfor"});
    }
    finish("endfor");
  }

  void parse_set(statement& made) {
    do {
      auto name = new_name();
      if (in_.take_symbol(".")) name.append(1, '.').append(in_.expect_name("the name of an attribute"));
      made.targets.push_back(std::move(name));
    } while (in_.take_symbol(","));
    if (in_.take_symbol("=")) {
      made.kind = statement_kind::assignment;
      made.subject = in_.parse_maybe_tuple(true);
      return close(token_kind::close_block);
    }
    if (made.targets.size() > 1) in_.fail_here("'='");
    made.kind = statement_kind::capture;
    if (in_.is_symbol("|")) made.subject = in_.parse_filters(nullptr);
    close(token_kind::close_block);
    made.body = parse_block({"endset"});
    finish("endset");
  }

  void parse_macro(statement& made) {
    made.kind = statement_kind::macro;
    made.targets.push_back(new_name());
    in_.expect_symbol("(");
    while (!in_.is_symbol(")")) {
      auto name = new_name();
      auto otherwise = in_.take_symbol("=") ? in_.parse_expression() : nullptr;
      if (!otherwise && !made.parameters.empty() && made.parameters.back().second) {
        in_.fail_here("a default, as the parameter before has one");
      }
      made.parameters.emplace_back(std::move(name), std::move(otherwise));
      if (!in_.is_symbol(")")) in_.expect_symbol(",");
    }
    in_.take();
    close(token_kind::close_block);
    const auto loops_outside = std::exchange(loops_, 0);
    made.body = parse_block({"endmacro"});
    loops_ = loops_outside;
    finish("endmacro");
  }

  // A name that the template gives a value itself.
  std::string new_name() {
    auto name = in_.expect_name("a name");
    names_.insert(name);
    return name;
  }

  void check_calls() const {
    for (const auto& [name, at] : in_.called()) {
      if (!is_function(name) && !names_.contains(name)) refuse_construct(at, fmt::format("{}()", name));
    }
  }

  expression_parser in_;
  std::set<std::string> names_;
  std::size_t loops_{};
};

}  // namespace

block parse_template(std::string_view source) { return parser(source).run(); }

}  // namespace troupe::model::jinja
