#include "model/chat_template/library.hpp"

#include <algorithm>
#include <ctime>

#include <fmt/format.h>

#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

constexpr std::int64_t range_items_max = 100'000;  // of Jinja2's sandbox

value make_range(render_context& context, const arguments& given) {
  const auto bound = given.bind("range", {"start", "stop", "step"});
  if (bound[0] == nullptr) throw failure("range() needs a number");
  const bool only_stop = bound[1] == nullptr;
  const auto start = only_stop ? 0 : to_integer(*bound[0], "range()");
  const auto stop = to_integer(only_stop ? *bound[0] : *bound[1], "range()");
  const auto step = bound[2] == nullptr ? 1 : to_integer(*bound[2], "range()");
  if (step == 0) throw failure("range(): the step is 0");
  const double items = (static_cast<double>(stop) - static_cast<double>(start)) / static_cast<double>(step);
  if (items > static_cast<double>(range_items_max)) {
    throw failure(fmt::format("range(): more than {} numbers", range_items_max));
  }
  std::vector<value> out;
  for (auto at = start; step > 0 ? at < stop : at > stop; at += step) out.emplace_back(at);
  context.count_steps(out.size());
  return value::list(std::move(out));
}

entries entries_of(const arguments& given, std::string_view what) {
  entries out;
  if (given.positional.size() > 1) throw failure(fmt::format("{}() takes one dict and names", what));
  if (!given.positional.empty()) {
    const auto* base = given.positional.front().as_dictionary();
    if (base == nullptr) throw failure(fmt::format("{}() takes a dict", what));
    out = base->items;
  }
  name_space merged{std::move(out)};
  for (const auto& [name, v] : given.named) merged.set(name, v);
  return std::move(merged.attributes);
}

value format_time(render_context& context, const arguments& given) {
  const auto bound = given.bind("strftime_now", {"format"});
  const auto* format = bound[0] == nullptr ? nullptr : bound[0]->as_text();
  if (format == nullptr) throw failure("strftime_now() needs a format");
  const auto seconds = static_cast<std::time_t>(context.local_seconds);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);  // local_seconds is local time already
  std::string out(format->size() * 8 + 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), format->c_str(), &parts));
  return context.made(std::move(out));
}

value attribute_of_loop(const loop_state& loop, const std::string& name, const std::shared_ptr<loop_state>& self) {
  const auto size = static_cast<std::int64_t>(loop.items->items.size());
  const auto index = static_cast<std::int64_t>(loop.index);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return size - index;
  if (name == "revindex0") return size - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == size;
  if (name == "length") return size;
  if (name == "depth" || name == "depth0")
    return std::int64_t{name == "depth"};  // of recursion, which there is none of
  if (name == "previtem") return index == 0 ? value(undefined{"previtem"}) : loop.items->items[loop.index - 1];
  if (name == "nextitem") return index + 1 == size ? value(undefined{"nextitem"}) : loop.items->items[loop.index + 1];
  if (name == "cycle" || name == "changed") {
    return std::make_shared<const callable>(callable{callable::kind::method, name, value(self)});
  }
  return undefined{"loop." + name};
}

bool has_method(const value& object, std::string_view name) {
  static constexpr std::string_view of_dict[] = {"copy", "get", "items", "keys", "values"};
  static constexpr std::string_view of_list[] = {"count", "index"};
  if (object.as_dictionary() != nullptr) return std::ranges::find(of_dict, name) != std::end(of_dict);
  if (object.as_sequence() != nullptr) return std::ranges::find(of_list, name) != std::end(of_list);
  const auto in_dict = std::ranges::find(of_dict, name) != std::end(of_dict);
  return object.as_text() != nullptr && is_method(name) && !in_dict && name != "cycle" && name != "changed";
}

value item_at(const value& object, std::int64_t index) {
  if (const auto* s = object.as_sequence()) {
    const auto size = static_cast<std::int64_t>(s->items.size());
    if (index < 0) index += size;
    if (index >= 0 && index < size) return s->items[static_cast<std::size_t>(index)];
  } else if (const auto* t = object.as_text()) {
    const auto all = characters(*t);
    const auto size = static_cast<std::int64_t>(all.size());
    if (index < 0) index += size;
    if (index >= 0 && index < size) return std::string(all[static_cast<std::size_t>(index)]);
  }
  return undefined{fmt::format("item {}", index)};
}

}  // namespace

void render_context::count_steps(std::uint64_t steps) {
  if (steps > steps_left) throw failure("the template takes too many steps for these messages");
  steps_left -= steps;
}

value render_context::made(std::string text) {
  if (text.size() > bytes_left) throw failure("the template makes too much text of these messages");
  bytes_left -= text.size();
  return text;
}

std::vector<const value*> arguments::bind(std::string_view what,
                                          std::initializer_list<std::string_view> parameters) const {
  if (positional.size() > parameters.size()) {
    throw failure(
        fmt::format("{} takes at most {} arguments, {} were given", what, parameters.size(), positional.size()));
  }
  std::vector<const value*> bound(parameters.size(), nullptr);
  for (std::size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, v] : named) {
    const auto at = static_cast<std::size_t>(std::ranges::find(parameters, name) - parameters.begin());
    if (at == parameters.size()) throw failure(fmt::format("{} takes no argument '{}'", what, name));
    if (bound[at] != nullptr) throw failure(fmt::format("{} got argument '{}' twice", what, name));
    bound[at] = &v;
  }
  return bound;
}

bool is_function(std::string_view name) {
  static constexpr std::string_view names[] = {"dict", "namespace", "raise_exception", "range", "strftime_now"};
  return std::ranges::find(names, name) != std::end(names);
}

value call_function(render_context& context, const std::string& name, const arguments& given) {
  if (name == "range") return make_range(context, given);
  if (name == "dict") return value::dict(entries_of(given, name));
  if (name == "namespace") return std::make_shared<name_space>(name_space{entries_of(given, name)});
  if (name == "strftime_now") return format_time(context, given);
  const auto bound = given.bind(name, {"message"});
  failure spoken(bound[0] == nullptr ? "" : to_text(*bound[0]));  // raise_exception
  spoken.keep_as_is();
  throw spoken;
}

value find_attribute(render_context& context, const value& object, const std::string& name) {
  if (const auto* u = object.get<undefined>()) throw failure(fmt::format("'{}' is undefined", u->name));
  if (const auto* loop = object.get<std::shared_ptr<loop_state>>()) return attribute_of_loop(**loop, name, *loop);
  if (const auto* space = object.get<std::shared_ptr<name_space>>()) {
    for (const auto& [known, v] : (*space)->attributes) {
      if (known == name) return v;
    }
    return undefined{name};
  }
  if (has_method(object, name)) {
    return std::make_shared<const callable>(callable{callable::kind::method, name, object});
  }
  const auto* dictionary = object.as_dictionary();
  if (dictionary == nullptr) return undefined{name};
  context.count_steps(dictionary->items.size() / 8);
  const auto* found = dictionary->find(name);
  return found == nullptr ? value(undefined{name}) : *found;
}

value find_item(render_context& context, const value& object, const value& key) {
  if (const auto* u = object.get<undefined>()) throw failure(fmt::format("'{}' is undefined", u->name));
  const auto* name = key.as_text();
  if (const auto* dictionary = object.as_dictionary()) {
    context.count_steps(dictionary->items.size() / 8);
    const auto* found = name == nullptr ? nullptr : dictionary->find(*name);
    if (found != nullptr) return *found;
  }
  if (name != nullptr) return find_attribute(context, object, *name);
  if (key.get<std::int64_t>() == nullptr && key.get<bool>() == nullptr) return undefined{to_text(key)};
  if (const auto* t = object.as_text()) context.count_steps(t->size() / 16);
  return item_at(object, to_integer(key, "index"));
}

std::vector<value> iterate(render_context& context, const value& v) {
  if (v.is_undefined()) return {};
  std::vector<value> out;
  if (const auto* s = v.as_sequence()) {
    out = s->items;
  } else if (const auto* d = v.as_dictionary()) {
    for (const auto& entry : d->items) out.emplace_back(entry.first);
  } else if (const auto* t = v.as_text()) {
    context.count_steps(t->size());
    for (const auto one : characters(*t)) out.emplace_back(std::string(one));
  } else {
    throw failure(fmt::format("'{}' cannot be iterated over", type_name(v)));
  }
  context.count_steps(out.size());
  return out;
}

bool contains(render_context& context, const value& container, const value& item) {
  if (const auto* t = container.as_text()) {
    const auto* part = item.as_text();
    if (part == nullptr) throw failure(fmt::format("'in <string>' needs a string, not '{}'", type_name(item)));
    context.count_steps(t->size() / 64);
    return t->find(*part) != std::string::npos;
  }
  if (const auto* d = container.as_dictionary()) {
    context.count_steps(d->items.size() / 8);
    return item.as_text() != nullptr && d->find(*item.as_text()) != nullptr;
  }
  context.count_steps(weight_of(container));
  const auto items = iterate(context, container);
  return std::ranges::any_of(items, [&item](const value& one) { return is_equal(one, item); });
}

}  // namespace troupe::model::jinja
