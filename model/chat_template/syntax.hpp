// A parsed template as plain values, and where in the source things stand.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/value.hpp"

namespace troupe::model::jinja {

struct position {
  std::uint32_t line{1};
  std::uint32_t column{1};  // in characters, from 1
};

struct expression;
using expression_ptr = std::unique_ptr<const expression>;

enum class expression_kind : std::uint8_t {
  literal,      // constant
  name,         // name
  list,         // operands
  tuple,        // operands
  dict,         // operands: key, value, key, value ...
  attribute,    // operands[0].name
  item,         // operands[0][operands[1]]
  slice,        // operands[0][1:2:3]; an absent bound is nullptr
  call,         // operands[0](operands[1...], named)
  filter,       // operands[0] | name(operands[1...], named); operands[0] nullptr: the text of a set block
  test,         // operands[0] is name(operands[1...], named)
  negative,     // - operands[0]
  positive,     // + operands[0]
  negation,     // not operands[0]
  arithmetic,   // operands[0] name operands[1], name: + - * / // % ** ~
  comparison,   // operands[0] words[0] operands[1] words[1] operands[2] ...
  conjunction,  // operands[0] and operands[1]
  disjunction,  // operands[0] or operands[1]
  condition,    // operands[0] if operands[1] else operands[2]; without else nullptr
};

struct expression {
  expression_kind kind{expression_kind::literal};
  position at{};
  value constant{};
  std::string name{};
  std::vector<expression_ptr> operands{};
  std::vector<std::pair<std::string, expression_ptr>> named{};
  std::vector<std::string> words{};
  std::size_t height{1};  // of the tree below it
};

struct statement;
using block = std::vector<statement>;

enum class statement_kind : std::uint8_t {
  text,        // text
  output,      // {{ value }}
  choice,      // if / elif / else: branches; a branch without a condition is the else
  loop,        // for targets in value [if filter]: body, else alternative
  assignment,  // set targets = value; a target "a.b" sets an attribute of a namespace
  capture,     // set targets[0] [| filters in value] ... endset: body
  macro,       // macro name(parameters): body
  stop,        // break
  next,        // continue
  group,       // body as it is ({% generation %})
};

struct statement {
  statement_kind kind{statement_kind::text};
  position at{};
  std::string text{};
  std::vector<std::string> targets{};
  expression_ptr subject{};
  expression_ptr filter{};
  std::vector<std::pair<expression_ptr, block>> branches{};
  std::vector<std::pair<std::string, expression_ptr>> parameters{};  // with their defaults or nullptr
  block body{};
  block alternative{};
};

}  // namespace troupe::model::jinja
