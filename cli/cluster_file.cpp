#include "cli/cluster_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <set>

#include "cli/suggest.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

int line_of(const YAML::Node& node) { return node.Mark().line + 1; }

// Collects what is wrong under a key.
class reader {
 public:
  explicit reader(cluster_file& file) : file_{file} {}

  void read(const YAML::Node& root) {
    if (root.IsNull()) return;
    if (!root.IsMap()) return complain(root, "the file is a list of keys and values: key: value");
    each_key(root, [this](const std::string& key, const YAML::Node& value) {
      if (key == "machines") return read_machines(value);
      if (key == "ssh") return read_text(key, value, file_.ssh);
      if (key == "port") return read_port(value, file_.port);
      read_setting(key, value);
    });
    check_counts();
  }

 private:
  void complain(const YAML::Node& at, std::string message) {
    file_.problems.push_back({line_of(at), std::move(message)});
  }

  // yaml-cpp takes a key that is there twice without a word.
  template <class Use>
  void each_key(const YAML::Node& map, Use use) {
    std::set<std::string> seen;
    for (const auto& item : map) {
      if (!item.first.IsScalar()) {
        complain(item.first, "a key is a word");
        continue;
      }
      const auto& key = item.first.Scalar();
      if (!seen.insert(key).second) {
        complain(item.first, fmt::format("{}: is there twice", printable(key)));
        continue;
      }
      use(key, item.second);
    }
  }

  void read_setting(const std::string& key, const YAML::Node& value) {
    file_entry entry{key, {}, line_of(value)};
    if (value.IsScalar()) entry.values.push_back(value.Scalar());
    const bool is_list =
        value.IsSequence() && std::all_of(value.begin(), value.end(), [](const auto& e) { return e.IsScalar(); });
    if (is_list) {
      for (const auto& element : value) entry.values.push_back(element.Scalar());
    }
    if (!value.IsScalar() && !is_list) return complain(value, fmt::format("{}: needs a value", printable(key)));
    file_.settings.push_back(std::move(entry));
  }

  void read_text(const std::string& key, const YAML::Node& value, std::string& target) {
    if (!value.IsScalar() || value.Scalar().empty()) return complain(value, key + ": needs a text");
    target = value.Scalar();
  }

  template <class Number>
  void read_number(const std::string& key, const YAML::Node& value, Number lowest, Number highest, Number& target) {
    const std::string text = value.IsScalar() ? value.Scalar() : "";
    Number number{};
    const auto end = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || end.ec != std::errc{} || end.ptr != text.data() + text.size() || number < lowest ||
        number > highest) {
      return complain(value, fmt::format("{}: needs a number from {} to {}", key, lowest, highest));
    }
    target = number;
  }

  void read_port(const YAML::Node& value, std::uint16_t& target) {
    read_number("port", value, std::uint16_t{1024}, std::uint16_t{64000}, target);
  }

  void read_machines(const YAML::Node& list) {
    if (list.IsScalar() && list.Scalar() == "slurm") {
      file_.is_slurm = true;
      return;
    }
    if (!list.IsSequence() || list.size() == 0)
      return complain(list, "machines: needs a list of machines with an address each, or the word slurm");
    for (const auto& one : list) {
      if (one.IsMap()) {
        read_machine(one);
      } else {
        complain(one, "machines: one of them is written {address: HOST}");
      }
    }
  }

  void read_machine(const YAML::Node& map) {
    machine_entry entry;
    entry.line = line_of(map);
    const auto problems = file_.problems.size();
    each_key(map, [&](const std::string& key, const YAML::Node& value) {
      if (key == "name") return read_text(key, value, entry.name);
      if (key == "address") return read_text(key, value, entry.address);
      if (key == "ssh") return read_text(key, value, entry.ssh);
      if (key == "port") return read_port(value, entry.port);
      if (key == "zone") return read_text(key, value, entry.zone);
      if (key == "expert_nodes") return read_number(key, value, 0U, 1000U, entry.expert_nodes);
      if (key == "routers") return read_number(key, value, 0U, 100U, entry.routers);
      static const std::vector<std::string> known{"name", "address", "ssh", "zone", "port", "expert_nodes", "routers"};
      complain(value, fmt::format("{}: unknown key of a machine{}", printable(key), hint(key, known)));
    });
    if (entry.address.empty() && file_.problems.size() == problems)
      complain(map, "machines: one of them has no address; write {address: HOST}");
    if (entry.name.empty()) entry.name = entry.address;
    const bool is_known = std::any_of(file_.machines.begin(), file_.machines.end(),
                                      [&](const auto& other) { return other.name == entry.name; });
    if (is_known && !entry.name.empty())
      complain(map, fmt::format("machines: {} is there twice; give them names", printable(entry.name)));
    file_.machines.push_back(std::move(entry));
  }

  void check_counts() {
    std::uint32_t experts = 0;
    for (const auto& one : file_.machines) experts += one.expert_nodes;
    for (const auto& entry : file_.settings) {
      if (experts > 0 && entry.key == "expert_nodes")
        file_.problems.push_back({entry.line, "expert_nodes: the machines say how many they have; leave this out"});
    }
  }

 public:
  static std::string hint(const std::string& word, const std::vector<std::string>& known) {
    auto near = did_you_mean(word, known);
    return near.empty() ? fmt::format("; there are {}", fmt::join(known, ", ")) : near;
  }

 private:
  cluster_file& file_;
};

// A bare number of a duration would be a guess.
bool lacks_unit(const CLI::Option& option, const std::string& value) {
  return option.get_type_name() == "DURATION" && value != "0" &&
         std::all_of(value.begin(), value.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

// What is wrong with the value; empty: it was taken. Paths are relative to the file, wherever the command is typed.
std::string give(CLI::Option& option, const file_entry& entry, const std::filesystem::path& folder) {
  auto value = fmt::format("{}", fmt::join(entry.values, ","));
  const auto kind = option.get_type_name();
  if (kind == "DIR" || kind == "FOLDER" || kind == "FILE") value = (folder / value).lexically_normal().string();
  if (lacks_unit(option, value)) return fmt::format("{} has no unit; write e.g. {}s", value, value);
  try {
    option.add_result(value);
    option.run_callback();
    return {};
  } catch (const CLI::Error& problem) {
    std::string message = problem.what();
    option.clear();
    if (const auto name = option.get_name() + ": "; message.starts_with(name)) message.erase(0, name.size());
    return message;
  }
}

}  // namespace

result<cluster_file> read_cluster_file(const std::filesystem::path& path) {
  cluster_file file;
  std::error_code failure;
  file.path = std::filesystem::absolute(path, failure);
  if (!std::filesystem::is_regular_file(path, failure)) {
    return fail(errc::not_found,
                fmt::format("cannot read the cluster file {}; troupe config defaults prints one", path.string()));
  }
  try {
    reader{file}.read(YAML::LoadFile(path.string()));
  } catch (const YAML::Exception& problem) {
    file.problems.push_back({problem.mark.line + 1, problem.msg});
  }
  return file;
}

std::map<std::string, setting_origin> apply_settings(cluster_file& file, CLI::App& verb) {
  std::map<std::string, CLI::Option*> options;
  auto origins = given_settings(verb);
  std::vector<std::string> known{"machines", "ssh", "port"};
  for (const auto& one : list_settings({}, {})) {
    known.push_back(one.key);
    options.emplace(one.key, verb.get_option("--" + option_name(one.key)));
  }
  for (const auto& entry : file.settings) {
    const auto found = options.find(entry.key);
    if (found == options.end()) {
      auto near = did_you_mean(entry.key, known);
      if (near.empty()) near = "; troupe config defaults lists them";
      file.problems.push_back({entry.line, fmt::format("{}: unknown key{}", printable(entry.key), near)});
    } else if (found->second->count() == 0) {
      auto wrong = give(*found->second, entry, file.path.parent_path());
      if (!wrong.empty()) file.problems.push_back({entry.line, fmt::format("{}: {}", entry.key, wrong)});
      origins[entry.key] = {"file", fmt::format("{}:{}", file.path.string(), entry.line)};
    }
  }
  std::ranges::stable_sort(file.problems, {}, &file_problem::line);
  return origins;
}

std::string to_string(const file_problem& problem, const std::filesystem::path& path) {
  return problem.line == 0 ? fmt::format("{}: {}", path.string(), problem.message)
                           : fmt::format("{}:{}: {}", path.string(), problem.line, problem.message);
}

}  // namespace troupe::cli
