// Expressions of a template: Jinja2's grammar and precedence.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat_template/lexer.hpp"
#include "model/chat_template/syntax.hpp"

namespace troupe::model::jinja {

[[noreturn]] void fail_at(position at, const std::string& message);
[[noreturn]] void refuse_construct(position at, std::string_view construct);

// A cursor over tokens that reads expressions. Throws failure with the place; nesting is bounded.
class expression_parser {
 public:
  explicit expression_parser(std::vector<token> tokens) : tokens_(std::move(tokens)) {}

  [[nodiscard]] const token& current() const { return tokens_[at_]; }
  [[nodiscard]] bool is_symbol(std::string_view symbol, std::size_t ahead = 0) const;
  [[nodiscard]] bool is_name(std::string_view name) const;
  token take();
  bool take_symbol(std::string_view symbol);
  bool take_name(std::string_view name);
  void expect_symbol(std::string_view symbol);
  std::string expect_name(std::string_view what);
  [[noreturn]] void fail_here(std::string_view expected) const;

  expression_ptr parse_expression();      // with "a if b else c"
  expression_ptr parse_without_choice();  // without it: what stands behind if, elif and "for x in"
  expression_ptr parse_maybe_tuple(bool with_choice);
  expression_ptr parse_filters(expression_ptr input);  // "| a | b(c)" behind an input that may be nullptr

  // Functions that were called by name, and where: the caller checks that there are such.
  [[nodiscard]] const std::vector<std::pair<std::string, position>>& called() const { return called_; }

  // Counts nesting of expressions and blocks while it lives.
  class nesting {
   public:
    explicit nesting(expression_parser& owner);
    ~nesting() { --owner_.depth_; }
    nesting(const nesting&) = delete;
    nesting& operator=(const nesting&) = delete;

   private:
    expression_parser& owner_;
  };

 private:
  expression_ptr parse_or();
  expression_ptr parse_and();
  expression_ptr parse_not();
  expression_ptr parse_comparison();
  bool take_comparison_word(std::vector<std::string>& words);
  using level = expression_ptr (expression_parser::*)();
  expression_ptr parse_arithmetic(std::initializer_list<std::string_view> symbols, level operand);
  expression_ptr parse_sum();
  expression_ptr parse_concatenation();
  expression_ptr parse_product();
  expression_ptr parse_power();
  expression_ptr parse_signed();
  expression_ptr parse_unary(bool with_filters);
  expression_ptr parse_primary();
  expression_ptr parse_name();
  expression_ptr parse_literal();
  expression_ptr parse_brackets();
  expression_ptr parse_list();
  expression_ptr parse_dict();
  expression_ptr parse_postfix(expression_ptr base);
  expression_ptr parse_attribute(expression_ptr base);
  expression_ptr parse_subscript(expression_ptr base);
  expression_ptr parse_call(expression_ptr base);
  expression_ptr parse_filter(expression_ptr input);
  expression_ptr parse_test(expression_ptr input);
  void parse_arguments(expression& into);

  std::vector<token> tokens_;
  std::size_t at_{};
  std::size_t depth_{};
  std::vector<std::pair<std::string, position>> called_;
};

}  // namespace troupe::model::jinja
