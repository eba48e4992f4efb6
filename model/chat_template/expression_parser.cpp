#include "model/chat_template/expression_parser.hpp"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/chat_template/library.hpp"

namespace troupe::model::jinja {
namespace {

// Seals a node. A tree that is too high would overflow the stack when it is evaluated or destroyed.
expression_ptr make(expression node) {
  node.height = 1;
  const auto count = [&node](const expression_ptr& child) {
    if (child) node.height = std::max(node.height, child->height + 1);
  };
  for (const auto& operand : node.operands) count(operand);
  for (const auto& [name, operand] : node.named) count(operand);
  if (node.height > limits::chat_template_expression_height_max)
    fail_at(node.at, "the expression is nested too deeply");
  return std::make_unique<const expression>(std::move(node));
}

expression node_of(expression_kind kind, position at) {
  expression node;
  node.kind = kind;
  node.at = at;
  return node;
}

bool is_reserved(std::string_view name) {
  static constexpr std::string_view words[] = {"and", "or", "not", "in", "is", "if", "else"};
  return std::ranges::find(words, name) != std::end(words);
}

std::string describe(const token& t) {
  switch (t.kind) {
    case token_kind::end:
      return "the end of the template";
    case token_kind::close_block:
      return "'%}'";
    case token_kind::close_value:
      return "'}}'";
    case token_kind::string:
      return "a string";
    default:
      return fmt::format("'{}'", t.text);
  }
}

}  // namespace

void fail_at(position at, const std::string& message) {
  failure f(message);
  f.locate(at.line, at.column);
  throw f;
}

void refuse_construct(position at, std::string_view construct) {
  fail_at(at, fmt::format("construct {} is not supported", construct));
}

expression_parser::nesting::nesting(expression_parser& owner) : owner_(owner) {
  if (++owner_.depth_ > limits::chat_template_depth_max) {
    --owner_.depth_;  // the destructor of an object that was never made does not run
    fail_at(owner_.current().at, "the template is nested too deeply");
  }
}

bool expression_parser::is_symbol(std::string_view symbol, std::size_t ahead) const {
  const auto at = std::min(at_ + ahead, tokens_.size() - 1);
  return tokens_[at].kind == token_kind::symbol && tokens_[at].text == symbol;
}

bool expression_parser::is_name(std::string_view name) const {
  return current().kind == token_kind::name && current().text == name;
}

token expression_parser::take() { return at_ + 1 < tokens_.size() ? std::move(tokens_[at_++]) : tokens_[at_]; }

bool expression_parser::take_symbol(std::string_view symbol) {
  const bool here = is_symbol(symbol);
  if (here) ++at_;
  return here;
}

bool expression_parser::take_name(std::string_view name) {
  const bool here = is_name(name);
  if (here) ++at_;
  return here;
}

void expression_parser::expect_symbol(std::string_view symbol) {
  if (!take_symbol(symbol)) fail_here(fmt::format("'{}'", symbol));
}

std::string expression_parser::expect_name(std::string_view what) {
  if (current().kind != token_kind::name || is_reserved(current().text)) fail_here(what);
  return take().text;
}

void expression_parser::fail_here(std::string_view expected) const {
  fail_at(current().at, fmt::format("expected {}, found {}", expected, describe(current())));
}

expression_ptr expression_parser::parse_expression() {
  const nesting guard(*this);
  auto chosen = parse_or();
  while (is_name("if")) {
    auto node = node_of(expression_kind::condition, take().at);
    node.operands.push_back(std::move(chosen));
    node.operands.push_back(parse_or());
    node.operands.push_back(take_name("else") ? parse_expression() : nullptr);
    chosen = make(std::move(node));
  }
  return chosen;
}

expression_ptr expression_parser::parse_without_choice() {
  const nesting guard(*this);
  return parse_or();
}

expression_ptr expression_parser::parse_maybe_tuple(bool with_choice) {
  auto first = with_choice ? parse_expression() : parse_without_choice();
  if (!is_symbol(",")) return first;
  auto node = node_of(expression_kind::tuple, first->at);
  node.operands.push_back(std::move(first));
  while (take_symbol(",")) {
    if (current().kind == token_kind::close_block) break;
    node.operands.push_back(with_choice ? parse_expression() : parse_without_choice());
  }
  return make(std::move(node));
}

expression_ptr expression_parser::parse_or() {
  auto left = parse_and();
  while (is_name("or")) {
    auto node = node_of(expression_kind::disjunction, take().at);
    node.operands.push_back(std::move(left));
    node.operands.push_back(parse_and());
    left = make(std::move(node));
  }
  return left;
}

expression_ptr expression_parser::parse_and() {
  auto left = parse_not();
  while (is_name("and")) {
    auto node = node_of(expression_kind::conjunction, take().at);
    node.operands.push_back(std::move(left));
    node.operands.push_back(parse_not());
    left = make(std::move(node));
  }
  return left;
}

expression_ptr expression_parser::parse_not() {
  if (!is_name("not")) return parse_comparison();
  const nesting guard(*this);
  auto node = node_of(expression_kind::negation, take().at);
  node.operands.push_back(parse_not());
  return make(std::move(node));
}

bool expression_parser::take_comparison_word(std::vector<std::string>& words) {
  for (const auto* symbol : {"==", "!=", "<", "<=", ">", ">="}) {
    if (!take_symbol(symbol)) continue;
    words.emplace_back(symbol);
    return true;
  }
  if (take_name("in")) {
    words.emplace_back("in");
    return true;
  }
  const auto& next = tokens_[std::min(at_ + 1, tokens_.size() - 1)];
  if (is_name("not") && next.kind == token_kind::name && next.text == "in") {
    at_ += 2;
    words.emplace_back("not in");
    return true;
  }
  return false;
}

expression_ptr expression_parser::parse_comparison() {
  auto first = parse_sum();
  auto node = node_of(expression_kind::comparison, current().at);
  while (take_comparison_word(node.words)) {
    if (node.operands.empty()) node.operands.push_back(std::move(first));
    node.operands.push_back(parse_sum());
  }
  return node.words.empty() ? std::move(first) : make(std::move(node));
}

// Left to right: a - b - c is (a - b) - c.
expression_ptr expression_parser::parse_arithmetic(std::initializer_list<std::string_view> symbols, level operand) {
  auto left = (this->*operand)();
  while (std::ranges::any_of(symbols, [this](std::string_view symbol) { return is_symbol(symbol); })) {
    auto sign = take();
    auto node = node_of(expression_kind::arithmetic, sign.at);
    node.name = std::move(sign.text);
    node.operands.push_back(std::move(left));
    node.operands.push_back((this->*operand)());
    left = make(std::move(node));
  }
  return left;
}

expression_ptr expression_parser::parse_sum() {
  return parse_arithmetic({"+", "-"}, &expression_parser::parse_concatenation);
}
expression_ptr expression_parser::parse_concatenation() {
  return parse_arithmetic({"~"}, &expression_parser::parse_product);
}
expression_ptr expression_parser::parse_product() {
  return parse_arithmetic({"*", "/", "//", "%"}, &expression_parser::parse_power);
}
expression_ptr expression_parser::parse_power() { return parse_arithmetic({"**"}, &expression_parser::parse_signed); }
expression_ptr expression_parser::parse_signed() { return parse_unary(true); }

expression_ptr expression_parser::parse_unary(bool with_filters) {
  expression_ptr result;
  if (is_symbol("-") || is_symbol("+")) {
    const nesting guard(*this);
    const auto sign = take();
    auto node = node_of(sign.text == "-" ? expression_kind::negative : expression_kind::positive, sign.at);
    node.operands.push_back(parse_unary(false));
    result = make(std::move(node));
  } else {
    result = parse_primary();
  }
  result = parse_postfix(std::move(result));
  if (!with_filters) return result;
  while (is_symbol("|") || is_name("is") || is_symbol("(")) {
    if (is_symbol("|")) {
      result = parse_filter(std::move(result));
    } else if (is_name("is")) {
      result = parse_test(std::move(result));
    } else {
      result = parse_call(std::move(result));
    }
  }
  return result;
}

expression_ptr expression_parser::parse_primary() {
  if (current().kind == token_kind::name) return parse_name();
  if (is_symbol("(")) return parse_brackets();
  if (is_symbol("[")) return parse_list();
  if (is_symbol("{")) return parse_dict();
  return parse_literal();
}

expression_ptr expression_parser::parse_name() {
  if (is_reserved(current().text)) fail_here("a value");
  auto word = take();
  auto node = node_of(expression_kind::literal, word.at);
  if (word.text == "true" || word.text == "True") {
    node.constant = value(true);
  } else if (word.text == "false" || word.text == "False") {
    node.constant = value(false);
  } else if (word.text == "none" || word.text == "None") {
    node.constant = value();
  } else {
    if (word.text == "caller" || word.text == "varargs" || word.text == "kwargs") refuse_construct(word.at, word.text);
    node.kind = expression_kind::name;
    node.name = std::move(word.text);
  }
  return make(std::move(node));
}

expression_ptr expression_parser::parse_literal() {
  auto node = node_of(expression_kind::literal, current().at);
  const auto& text = current().text;
  if (current().kind == token_kind::string) {
    std::string joined;
    while (current().kind == token_kind::string) joined += take().text;
    node.constant = value(std::move(joined));
    return make(std::move(node));
  }
  if (current().kind == token_kind::integer) {
    std::int64_t number = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) {
      refuse_construct(current().at, fmt::format("integer {}", text));
    }
    node.constant = value(number);
  } else if (current().kind == token_kind::decimal) {
    double number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    node.constant = value(number);
  } else {
    fail_here("a value");
  }
  take();
  return make(std::move(node));
}

// (a) is a itself; (a, b), (a,) and () are tuples.
expression_ptr expression_parser::parse_brackets() {
  const nesting guard(*this);
  auto node = node_of(expression_kind::tuple, take().at);
  bool has_comma = false;
  while (!is_symbol(")")) {
    node.operands.push_back(parse_expression());
    if (is_symbol(")")) break;
    expect_symbol(",");
    has_comma = true;
  }
  take();
  if (node.operands.size() == 1 && !has_comma) return std::move(node.operands.front());
  return make(std::move(node));
}

expression_ptr expression_parser::parse_list() {
  const nesting guard(*this);
  auto node = node_of(expression_kind::list, take().at);
  while (!is_symbol("]")) {
    node.operands.push_back(parse_expression());
    if (!is_symbol("]")) expect_symbol(",");
  }
  take();
  return make(std::move(node));
}

expression_ptr expression_parser::parse_dict() {
  const nesting guard(*this);
  auto node = node_of(expression_kind::dict, take().at);
  while (!is_symbol("}")) {
    node.operands.push_back(parse_expression());
    expect_symbol(":");
    node.operands.push_back(parse_expression());
    if (!is_symbol("}")) expect_symbol(",");
  }
  take();
  return make(std::move(node));
}

expression_ptr expression_parser::parse_postfix(expression_ptr base) {
  for (;;) {
    if (is_symbol(".")) {
      base = parse_attribute(std::move(base));
    } else if (is_symbol("[")) {
      base = parse_subscript(std::move(base));
    } else if (is_symbol("(")) {
      base = parse_call(std::move(base));
    } else {
      return base;
    }
  }
}

expression_ptr expression_parser::parse_attribute(expression_ptr base) {
  auto node = node_of(expression_kind::attribute, take().at);
  node.operands.push_back(std::move(base));
  if (current().kind == token_kind::integer) {
    node.kind = expression_kind::item;
    node.operands.push_back(parse_literal());
    return make(std::move(node));
  }
  if (current().kind != token_kind::name) fail_here("the name of an attribute");
  node.at = current().at;
  node.name = take().text;
  if (is_symbol("(") && !is_method(node.name)) refuse_construct(node.at, fmt::format(".{}()", node.name));
  return make(std::move(node));
}

expression_ptr expression_parser::parse_subscript(expression_ptr base) {
  const nesting guard(*this);
  auto node = node_of(expression_kind::item, take().at);
  node.operands.push_back(std::move(base));
  node.operands.push_back(is_symbol(":") ? nullptr : parse_expression());
  while (is_symbol(":") && node.operands.size() < 4) {
    node.kind = expression_kind::slice;
    take();
    node.operands.push_back(is_symbol(":") || is_symbol("]") ? nullptr : parse_expression());
  }
  if (node.kind == expression_kind::slice) node.operands.resize(4);
  if (is_symbol(",")) refuse_construct(current().at, "[a, b]");
  expect_symbol("]");
  return make(std::move(node));
}

expression_ptr expression_parser::parse_call(expression_ptr base) {
  auto node = node_of(expression_kind::call, current().at);
  if (base->kind == expression_kind::name) called_.emplace_back(base->name, base->at);
  node.operands.push_back(std::move(base));
  parse_arguments(node);
  return make(std::move(node));
}

void expression_parser::parse_arguments(expression& into) {
  const nesting guard(*this);
  expect_symbol("(");
  while (!is_symbol(")")) {
    if (is_symbol("*") || is_symbol("**")) refuse_construct(current().at, "f(*arguments)");
    if (current().kind == token_kind::name && is_symbol("=", 1)) {
      auto name = take().text;
      take();
      into.named.emplace_back(std::move(name), parse_expression());
    } else {
      if (!into.named.empty()) fail_here("a named argument");
      into.operands.push_back(parse_expression());
    }
    if (!is_symbol(")")) expect_symbol(",");
  }
  take();
}

expression_ptr expression_parser::parse_filters(expression_ptr input) {
  while (is_symbol("|")) input = parse_filter(std::move(input));
  return input;
}

expression_ptr expression_parser::parse_filter(expression_ptr input) {
  take();
  auto node = node_of(expression_kind::filter, current().at);
  node.name = expect_name("the name of a filter");
  if (!is_filter(node.name)) refuse_construct(node.at, fmt::format("filter '{}'", node.name));
  node.operands.push_back(std::move(input));
  if (is_symbol("(")) parse_arguments(node);
  return make(std::move(node));
}

expression_ptr expression_parser::parse_test(expression_ptr input) {
  take();
  const bool negated = take_name("not");
  auto node = node_of(expression_kind::test, current().at);
  if (current().kind != token_kind::name) fail_here("the name of a test");
  node.name = take().text;
  if (!is_test(node.name)) refuse_construct(node.at, fmt::format("test '{}'", node.name));
  node.operands.push_back(std::move(input));
  if (is_symbol("(")) {
    parse_arguments(node);
  } else if (test_has_argument(node.name)) {
    node.operands.push_back(parse_postfix(parse_primary()));
  }
  if (is_name("is")) refuse_construct(current().at, "'is' behind a test");
  auto result = make(std::move(node));
  if (!negated) return result;
  auto inverse = node_of(expression_kind::negation, result->at);
  inverse.operands.push_back(std::move(result));
  return make(std::move(inverse));
}

}  // namespace troupe::model::jinja
