// What a template calculates with: Python's values, as far as chat templates use them. Values are immutable and cheap
// to copy; a namespace is the only thing that changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace troupe::model::jinja {

// Ends parsing or rendering. Thrown only inside this library: chat_template.cpp turns it into an error value. (A result
// type through every expression of an interpreter would be most of its code.)
class failure : public std::exception {
 public:
  explicit failure(std::string message) : message_(std::move(message)) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }
  [[nodiscard]] const std::string& message() const { return message_; }
  // Where it happened, put before the message once: the innermost place counts.
  void locate(std::uint32_t line, std::uint32_t column);
  // raise_exception(): the template speaks to the caller, no place is wanted.
  void keep_as_is() { as_is_ = located_ = true; }
  [[nodiscard]] bool is_as_is() const { return as_is_; }

 private:
  std::string message_;
  bool as_is_{};
  bool located_{};
};

class value;
struct callable;

struct undefined {
  std::string name;  // of what was missing
};
struct none {};
using text_ptr = std::shared_ptr<const std::string>;  // UTF-8; Python's str

// How much there is inside of a list or dict, everything counted: what going through it costs.
struct extent {
  std::uint64_t weight{1};
  std::uint32_t height{1};
};

struct sequence {
  std::vector<value> items;
  bool is_tuple{};
  extent size{};
};

using entries = std::vector<std::pair<std::string, value>>;

// In the order of insertion. Small: found by looking through it.
struct dictionary {
  entries items;
  extent size{};
  [[nodiscard]] const value* find(std::string_view key) const;
};

struct name_space {
  entries attributes;
  void set(const std::string& name, value v);
};

// `loop` of a for block.
struct loop_state {
  std::shared_ptr<const sequence> items;
  std::size_t index{};
  std::shared_ptr<const value> last_changed{};  // arguments of the last loop.changed()
};

class value {
 public:
  using variant = std::variant<undefined, none, bool, std::int64_t, double, text_ptr, std::shared_ptr<const sequence>,
                               std::shared_ptr<const dictionary>, std::shared_ptr<name_space>,
                               std::shared_ptr<const callable>, std::shared_ptr<loop_state>>;

  value() : content_(none{}) {}
  value(bool v) : content_(v) {}          // NOLINT(google-explicit-constructor): literals become values
  value(std::int64_t v) : content_(v) {}  // NOLINT(google-explicit-constructor)
  value(double v) : content_(v) {}        // NOLINT(google-explicit-constructor)
  value(std::string v)                    // NOLINT(google-explicit-constructor)
      : content_(std::make_shared<const std::string>(std::move(v))) {}
  value(const char* v) : value(std::string(v)) {}                         // NOLINT(google-explicit-constructor)
  value(undefined v) : content_(std::move(v)) {}                          // NOLINT(google-explicit-constructor)
  value(std::shared_ptr<name_space> v) : content_(std::move(v)) {}        // NOLINT(google-explicit-constructor)
  value(std::shared_ptr<const callable> v) : content_(std::move(v)) {}    // NOLINT(google-explicit-constructor)
  value(std::shared_ptr<loop_state> v) : content_(std::move(v)) {}        // NOLINT(google-explicit-constructor)
  value(std::shared_ptr<const sequence> v) : content_(std::move(v)) {}    // NOLINT(google-explicit-constructor)
  value(std::shared_ptr<const dictionary> v) : content_(std::move(v)) {}  // NOLINT(google-explicit-constructor)
  // Throw failure when they become too large or too deep: every walk through a value is bounded by that. A namespace
  // cannot be inside, so that no value can contain itself.
  static value list(std::vector<value> items);
  static value tuple(std::vector<value> items);
  static value dict(entries items);

  template <class T>
  [[nodiscard]] const T* get() const {
    return std::get_if<T>(&content_);
  }
  [[nodiscard]] bool is_undefined() const { return get<undefined>() != nullptr; }
  [[nodiscard]] bool is_none() const { return get<none>() != nullptr; }
  [[nodiscard]] const std::string* as_text() const {
    const auto* t = get<text_ptr>();
    return t == nullptr ? nullptr : t->get();
  }
  [[nodiscard]] const sequence* as_sequence() const {
    const auto* s = get<std::shared_ptr<const sequence>>();
    return s == nullptr ? nullptr : s->get();
  }
  [[nodiscard]] const dictionary* as_dictionary() const {
    const auto* d = get<std::shared_ptr<const dictionary>>();
    return d == nullptr ? nullptr : d->get();
  }
  [[nodiscard]] bool is_number() const;  // bool included, as in Python
  [[nodiscard]] const variant& content() const { return content_; }

 private:
  variant content_;
};

// What stands for a callable in a template: a function of the library, a method of a value, or a macro.
struct callable {
  enum class kind : std::uint8_t { function, method, macro };
  kind what{kind::function};
  std::string name;
  value object{};                 // method: of which value
  const void* macro{};            // macro: its statement, owned by the template
  std::weak_ptr<void> closure{};  // macro: the scope it was made in
};

[[nodiscard]] std::string_view type_name(const value& v);  // as Python calls it, for messages
[[nodiscard]] std::uint64_t weight_of(const value& v);
[[nodiscard]] bool is_true(const value& v);
[[nodiscard]] bool is_equal(const value& a, const value& b);
// Negative, zero, positive. Throws failure for what Python does not order.
[[nodiscard]] int order(const value& a, const value& b);
[[nodiscard]] std::string to_text(const value& v);  // str()
[[nodiscard]] std::string to_repr(const value& v);  // repr()
[[nodiscard]] std::string to_text(double v);
// Throws failure when it is no number.
[[nodiscard]] double to_double(const value& v);
// Throws failure when it is no integer (or bool).
[[nodiscard]] std::int64_t to_integer(const value& v, std::string_view what);

}  // namespace troupe::model::jinja
