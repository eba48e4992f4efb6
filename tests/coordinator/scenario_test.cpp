// Runs the transcripts of tests/scenarios: commands, and what `show` must print after them (lines that begin with ">
// "). TROUPE_REWRITE_SCENARIOS=1 writes what is printed now into the files, to be reviewed.
//
//   cluster slots 4 4 experts 6 [layers 1] [replication 1] [routers 1]   first line: what there is
//   run 3s                                                              lets virtual time pass
//   crash N | start N | freeze N 2s | cut N | join N                    a node: by its number or name
//   coordinator crash | coordinator start
//   drain NODE | undrain NODE | remove NODE [force]                     prints the answer
//   show                                                                prints nodes and what the map says they hold
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/simulation/simulated_cluster.hpp"

namespace troupe::simulation {
namespace {

namespace fs = std::filesystem;

milliseconds parse_time(const std::string& text) {
  auto number = std::stol(text);
  return text.ends_with("ms") ? milliseconds(number) : milliseconds(number * 1000);
}

class transcript {
 public:
  // The lines that the command prints.
  std::string execute(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "cluster") return make(words);
    if (!cluster_) return "the first command must be cluster\n";
    if (verb == "run") {
      std::string length;
      words >> length;
      cluster_->run(parse_time(length), {});
      return cluster_->violation().empty() ? "" : fmt::format("{}\n", cluster_->violation());
    }
    if (verb == "show") return show();
    if (verb == "coordinator") return coordinator(words);
    std::string node;
    words >> node;
    if (verb == "drain") return command(drain_node{{node}, false});
    if (verb == "undrain") return command(undrain_node{{node}, false});
    if (verb == "remove") {
      std::string force;
      words >> force;
      return command(remove_node{{node}, false, force == "force"});
    }
    return on_node(verb, node, words);
  }

 private:
  std::string make(std::istringstream& words) {
    cluster_shape shape;
    shape.slots.clear();
    shape.layers = 1;
    shape.routers = 1;
    std::string key;
    for (std::string word; words >> word;) {
      if (std::isdigit(static_cast<unsigned char>(word[0])) == 0) {
        key = word;
        continue;
      }
      auto number = static_cast<std::uint32_t>(std::stoul(word));
      if (key == "slots") shape.slots.push_back(number);
      if (key == "layers") shape.layers = number;
      if (key == "experts") shape.experts_per_layer = number;
      if (key == "replication") shape.replication = number;
      if (key == "routers") shape.routers = number;
    }
    nodes_ = shape.slots.size();
    cluster_ = std::make_unique<simulated_cluster>(shape, 1);
    return "";
  }

  std::string on_node(const std::string& verb, const std::string& name, std::istringstream& words) {
    auto dash = name.rfind('-');
    auto number = std::stoul(name.substr(dash + 1)) + (name.starts_with("router") ? nodes_ : 0);
    if (verb == "crash") {
      cluster_->crash_node(number);
    } else if (verb == "start") {
      cluster_->start_node(number);
    } else if (verb == "freeze") {
      std::string length;
      words >> length;
      cluster_->freeze_node(number, parse_time(length));
    } else if (verb == "cut" || verb == "join") {
      cluster_->cut_node(name, verb == "cut");
    } else {
      return fmt::format("no command {}\n", verb);
    }
    return "";
  }

  std::string coordinator(std::istringstream& words) {
    std::string what;
    words >> what;
    what == "crash" ? cluster_->crash_coordinator() : cluster_->start_coordinator();
    return "";
  }

  std::string command(decltype(admin_command::what) what) {
    auto answers = cluster_->replies().size();
    cluster_->command({"cli", fmt::format("scenario-{}", ++commands_), std::move(what)});
    cluster_->run(milliseconds(200), {});
    if (cluster_->replies().size() == answers) return "no answer\n";
    const auto& outcome = cluster_->replies()[answers].outcome;
    if (outcome) return fmt::format("{}: {}\n", outcome->state, outcome->message);
    return fmt::format("{}: {}\n", to_string(outcome.error().code), outcome.error().message);
  }

  std::string show() {
    const auto* state = cluster_->coordinator_state();
    if (state == nullptr) return "no coordinator\n";
    std::map<std::string, std::string> held;
    std::string missing;
    for (const auto& expert : state->published->experts) {
      for (const auto& replica : expert.replicas) {
        held[state->published->nodes[replica.node].name.value] += fmt::format(" {}", to_string(expert.id));
      }
      if (expert.replicas.empty()) missing += fmt::format(" {}", to_string(expert.id));
    }
    std::string text = fmt::format("term {}\n", state->term.value);
    for (const auto& [name, node] : state->nodes) {
      if (node.removed) continue;
      text += fmt::format("{} {}:{}\n", name.value, to_string(shown_state(node)), held[name.value]);
    }
    if (!missing.empty()) text += fmt::format("unroutable:{}\n", missing);
    return text;
  }

  std::unique_ptr<simulated_cluster> cluster_;
  std::size_t nodes_{};
  int commands_{};
};

std::string run_file(const fs::path& file, std::string& written) {
  std::ifstream in(file);
  transcript script;
  for (std::string line; std::getline(in, line);) written += line + "\n";
  in.clear();
  in.seekg(0);
  std::string now;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("> ")) continue;
    now += line + "\n";
    if (line.empty() || line[0] == '#') continue;
    std::istringstream printed(script.execute(line));
    for (std::string row; std::getline(printed, row);) now += fmt::format("> {}\n", row);
  }
  return now;
}

TEST(scenarios, print_what_they_say) {
  std::size_t files = 0;
  for (const auto& item : fs::directory_iterator(fs::path(TROUPE_SOURCE_DIR) / "tests/scenarios")) {
    if (item.path().extension() != ".txt") continue;
    ++files;
    std::string written;
    auto now = run_file(item.path(), written);
    if (std::getenv("TROUPE_REWRITE_SCENARIOS") != nullptr) std::ofstream(item.path()) << now;
    EXPECT_EQ(written, now) << item.path();
    EXPECT_TRUE(written.starts_with("# ")) << item.path() << " must begin with a sentence of intent";
  }
  EXPECT_GE(files, 8U);
}

}  // namespace
}  // namespace troupe::simulation
