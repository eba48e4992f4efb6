#include "model/chat_template/interpreter.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/chat_template/arithmetic.hpp"
#include "model/chat_template/library.hpp"

namespace troupe::model::jinja {
namespace {

// Names of one for iteration, macro call or set block, and behind them those around it.
struct scope {
  std::shared_ptr<scope> around;
  entries names;

  [[nodiscard]] const value* find(const std::string& name) const {
    for (const auto* s = this; s != nullptr; s = s->around.get()) {
      for (const auto& [known, v] : s->names) {
        if (known == name) return &v;
      }
    }
    return nullptr;
  }
  void set(const std::string& name, value v) {
    for (auto& [known, old] : names) {
      if (known == name) {
        old = std::move(v);
        return;
      }
    }
    names.emplace_back(name, std::move(v));
  }
};
using scope_ptr = std::shared_ptr<scope>;

scope_ptr inside(const scope_ptr& around) { return std::make_shared<scope>(scope{around, {}}); }

enum class flow : std::uint8_t { go_on, stop_loop, next_item };

class interpreter {
 public:
  explicit interpreter(std::int64_t local_seconds)
      : context_{limits::chat_template_steps_max, limits::chat_template_bytes_made_max, local_seconds} {}

  std::string run(const block& statements, const scope_ptr& names) {
    execute(statements, names);
    return std::move(out_);
  }

 private:
  // Counts what is nested while it lives: the stack of the machine is the bound behind it.
  class nesting {
   public:
    explicit nesting(interpreter& owner) : owner_(owner) {
      owner_.context_.count_steps(1);
      if (owner_.depth_ >= limits::chat_template_evaluation_depth_max) throw failure("nested too deeply");
      ++owner_.depth_;
    }
    ~nesting() { --owner_.depth_; }
    nesting(const nesting&) = delete;
    nesting& operator=(const nesting&) = delete;

   private:
    interpreter& owner_;
  };

  // -- statements

  flow execute(const block& statements, const scope_ptr& names) {
    for (const auto& one : statements) {
      try {
        const auto next = execute(one, names);
        if (next != flow::go_on) return next;
      } catch (failure& f) {
        f.locate(one.at.line, one.at.column);
        throw;
      }
    }
    return flow::go_on;
  }

  flow execute(const statement& one, const scope_ptr& names) {
    const nesting guard(*this);
    switch (one.kind) {
      case statement_kind::text:
        write(one.text);
        break;
      case statement_kind::output:
        write(to_text(evaluate(*one.subject, names)));
        break;
      case statement_kind::choice:
        return choose(one, names);
      case statement_kind::loop:
        return loop(one, names);
      case statement_kind::assignment:
        assign(one.targets, evaluate(*one.subject, names), names);
        break;
      case statement_kind::capture:
        capture(one, names);
        break;
      case statement_kind::macro:
        names->set(one.targets.front(), std::make_shared<const callable>(callable{
                                            callable::kind::macro, one.targets.front(), value(), &one, names}));
        break;
      case statement_kind::stop:
        return flow::stop_loop;
      case statement_kind::next:
        return flow::next_item;
      case statement_kind::group:
        return execute(one.body, names);
    }
    return flow::go_on;
  }

  void write(const std::string& text) {
    if (out_.size() + text.size() > limits::chat_template_output_bytes_max) {
      throw failure(fmt::format("the text becomes longer than {} bytes", limits::chat_template_output_bytes_max));
    }
    out_ += text;
  }

  flow choose(const statement& one, const scope_ptr& names) {
    for (const auto& [condition, body] : one.branches) {
      if (!condition || is_true(evaluate(*condition, names))) return execute(body, names);
    }
    return flow::go_on;
  }

  flow loop(const statement& one, const scope_ptr& names) {
    auto items = iterate(context_, evaluate(*one.subject, names));
    if (one.filter) {
      std::vector<value> kept;
      for (auto& item : items) {
        const auto own = inside(names);
        assign(one.targets, item, own);
        if (is_true(evaluate(*one.filter, own))) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) return execute(one.alternative, inside(names));
    auto state = std::make_shared<loop_state>();
    state->items = std::make_shared<const sequence>(sequence{std::move(items)});
    for (; state->index < state->items->items.size(); ++state->index) {
      const auto own = inside(names);
      own->set("loop", value(state));
      assign(one.targets, state->items->items[state->index], own);
      if (execute(one.body, own) == flow::stop_loop) break;
    }
    return flow::go_on;
  }

  void assign(const std::vector<std::string>& targets, const value& v, const scope_ptr& names) {
    if (targets.size() == 1) return assign(targets.front(), v, names);
    const auto parts = iterate(context_, v);
    if (parts.size() != targets.size()) {
      throw failure(fmt::format("{} values for {} names", parts.size(), targets.size()));
    }
    for (std::size_t i = 0; i < targets.size(); ++i) assign(targets[i], parts[i], names);
  }

  static void assign(const std::string& target, const value& v, const scope_ptr& names) {
    const auto dot = target.find('.');
    if (dot == std::string::npos) return names->set(target, v);
    const auto* found = names->find(target.substr(0, dot));
    const auto* space = found == nullptr ? nullptr : found->get<std::shared_ptr<name_space>>();
    if (space == nullptr) throw failure(fmt::format("'{}' is no namespace", target.substr(0, dot)));
    if (v.get<std::shared_ptr<name_space>>() != nullptr || v.get<std::shared_ptr<loop_state>>() != nullptr) {
      throw failure(fmt::format("construct {} inside of a namespace is not supported", type_name(v)));
    }
    (*space)->set(target.substr(dot + 1), v);
  }

  // What a body writes, as a value.
  value captured(const block& body, const scope_ptr& names) {
    auto before = std::exchange(out_, std::string());
    execute(body, names);
    return context_.made(std::exchange(out_, std::move(before)));
  }

  void capture(const statement& one, const scope_ptr& names) {
    auto text = captured(one.body, inside(names));
    if (one.subject) text = filter(*one.subject, names, &text);
    assign(one.targets, text, names);
  }

  // -- expressions

  value evaluate(const expression& e, const scope_ptr& names) {
    const nesting guard(*this);
    try {
      return evaluate_kind(e, names);
    } catch (failure& f) {
      f.locate(e.at.line, e.at.column);
      throw;
    }
  }

  value evaluate_kind(const expression& e, const scope_ptr& names) {
    const auto operand = [&](std::size_t i) { return evaluate(*e.operands[i], names); };
    switch (e.kind) {
      case expression_kind::literal:
        return e.constant;
      case expression_kind::name:
        return look_up(e.name, names);
      case expression_kind::list:
        return value::list(evaluate_all(e.operands, 0, names));
      case expression_kind::tuple:
        return value::tuple(evaluate_all(e.operands, 0, names));
      case expression_kind::dict:
        return make_dict(e, names);
      case expression_kind::attribute:
        return find_attribute(context_, operand(0), e.name);
      case expression_kind::item:
        return find_item(context_, operand(0), operand(1));
      case expression_kind::slice:
        return cut(e, names);
      case expression_kind::call:
        return call(e, names);
      case expression_kind::filter:
        return filter(e, names, nullptr);
      case expression_kind::test:
        return apply_test(context_, e.name, operand(0), given(e, names));
      case expression_kind::negative:
        return negative(operand(0));
      case expression_kind::positive:
        return positive(operand(0));
      case expression_kind::negation:
        return !is_true(operand(0));
      case expression_kind::arithmetic:
        return calculate(context_, e.name, operand(0), operand(1));
      case expression_kind::comparison:
        return compare(e, names);
      case expression_kind::conjunction: {
        auto left = operand(0);
        return is_true(left) ? operand(1) : left;
      }
      case expression_kind::disjunction: {
        auto left = operand(0);
        return is_true(left) ? left : operand(1);
      }
      case expression_kind::condition:
        if (is_true(operand(1))) return operand(0);
        return e.operands[2] ? operand(2) : value(undefined{"the missing else"});
    }
    return {};
  }

  static value look_up(const std::string& name, const scope_ptr& names) {
    if (const auto* found = names->find(name)) return *found;
    if (is_function(name)) return std::make_shared<const callable>(callable{callable::kind::function, name});
    return undefined{name};
  }

  std::vector<value> evaluate_all(const std::vector<expression_ptr>& list, std::size_t from, const scope_ptr& names) {
    std::vector<value> out;
    for (std::size_t i = from; i < list.size(); ++i) out.push_back(evaluate(*list[i], names));
    return out;
  }

  arguments given(const expression& e, const scope_ptr& names) {
    arguments out{evaluate_all(e.operands, 1, names), {}};
    for (const auto& [name, one] : e.named) out.named.emplace_back(name, evaluate(*one, names));
    return out;
  }

  value make_dict(const expression& e, const scope_ptr& names) {
    name_space made;
    for (std::size_t i = 0; i < e.operands.size(); i += 2) {
      const auto key = evaluate(*e.operands[i], names);
      if (key.as_text() == nullptr) throw failure("construct dict key that is no string is not supported");
      made.set(*key.as_text(), evaluate(*e.operands[i + 1], names));
    }
    return value::dict(std::move(made.attributes));
  }

  value cut(const expression& e, const scope_ptr& names) {
    value bounds[3];
    for (std::size_t i = 0; i < 3; ++i) {
      if (e.operands[i + 1]) bounds[i] = evaluate(*e.operands[i + 1], names);
    }
    return slice(context_, evaluate(*e.operands[0], names), bounds[0], bounds[1], bounds[2]);
  }

  value filter(const expression& e, const scope_ptr& names, const value* set_block_text) {
    // The innermost filter behind {% set x %} has no operand: its input is the text of the block.
    const bool is_innermost = !e.operands[0];
    const bool leads_there = set_block_text != nullptr && !is_innermost;
    const auto input = is_innermost  ? *set_block_text
                       : leads_there ? filter(*e.operands[0], names, set_block_text)
                                     : evaluate(*e.operands[0], names);
    return apply_filter(context_, e.name, input, given(e, names));
  }

  value compare(const expression& e, const scope_ptr& names) {
    auto left = evaluate(*e.operands[0], names);
    for (std::size_t i = 0; i < e.words.size(); ++i) {
      auto right = evaluate(*e.operands[i + 1], names);
      if (!holds(context_, e.words[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }

  value call(const expression& e, const scope_ptr& names) {
    const auto target = evaluate(*e.operands[0], names);
    const auto* found = target.get<std::shared_ptr<const callable>>();
    if (found == nullptr) {
      const auto* missing = target.get<undefined>();
      if (missing != nullptr) throw failure(fmt::format("'{}' is undefined", missing->name));
      throw failure(fmt::format("'{}' cannot be called", type_name(target)));
    }
    const auto& what = **found;
    const auto arguments_given = given(e, names);
    if (what.what == callable::kind::function) return call_function(context_, what.name, arguments_given);
    if (what.what == callable::kind::method) return call_method(context_, what.name, what.object, arguments_given);
    return call_macro(what, arguments_given);
  }

  value call_macro(const callable& what, const arguments& arguments_given) {
    const auto& made = *static_cast<const statement*>(what.macro);
    const auto around = std::static_pointer_cast<scope>(what.closure.lock());
    if (!around)
      throw failure(fmt::format("construct macro '{}' called outside of its block is not supported", what.name));
    const auto own = inside(around);
    auto rest = arguments_given.named;
    if (arguments_given.positional.size() > made.parameters.size()) {
      throw failure(fmt::format("macro '{}' takes at most {} arguments", what.name, made.parameters.size()));
    }
    for (std::size_t i = 0; i < made.parameters.size(); ++i) {
      const auto& [name, otherwise] = made.parameters[i];
      const auto named = std::ranges::find(rest, name, &entries::value_type::first);
      if (i < arguments_given.positional.size()) {
        own->set(name, arguments_given.positional[i]);
      } else if (named != rest.end()) {
        own->set(name, named->second);
        rest.erase(named);
      } else {
        own->set(name, otherwise ? evaluate(*otherwise, own) : value(undefined{name}));
      }
    }
    if (!rest.empty()) throw failure(fmt::format("macro '{}' takes no argument '{}'", what.name, rest.front().first));
    return captured(made.body, own);
  }

  render_context context_;
  std::string out_;
  std::size_t depth_{};
};

}  // namespace

std::string render(const block& statements, entries variables, std::int64_t local_seconds) {
  const auto root = std::make_shared<scope>();
  root->names = std::move(variables);
  return interpreter(local_seconds).run(statements, root);
}

}  // namespace troupe::model::jinja
