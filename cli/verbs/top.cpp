// troupe top.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/application.hpp"
#include "cli/interrupt.hpp"
#include "cli/placement_page.hpp"
#include "cli/screen.hpp"
#include "cli/terminal.hpp"
#include "cli/top_frame.hpp"

namespace troupe::cli {
namespace {

constexpr std::chrono::milliseconds frame_interval{1000};

struct cluster_view {
  json status, placement, operations;
};

// Keeps its connection between frames, and makes a new one after a failure.
class observer {
 public:
  explicit observer(const session& s) : session_{s} {}

  result<cluster_view> look() {
    auto seen = ask_all();
    if (!seen) connection_.reset();
    return seen;
  }

 private:
  result<cluster_view> ask_all() {
    if (!connection_) {
      auto made = session_.coordinator();
      if (!made) return fail(made.error());
      connection_.emplace(std::move(*made));
    }
    auto status = connection_->ask({query_kind::status});
    if (!status) return fail(status.error());
    auto nodes = connection_->ask({query_kind::nodes});
    if (!nodes) return fail(nodes.error());
    auto experts = connection_->ask({query_kind::experts});
    if (!experts) return fail(experts.error());
    auto operations = connection_->ask({query_kind::operations});
    if (!operations) return fail(operations.error());
    return cluster_view{std::move(*status), placement_document(*experts, *nodes), std::move(*operations)};
  }

  const session& session_;
  std::optional<admin_client> connection_;
};

result<exit_code> print_once(const session& s, observer& cluster) {
  const auto seen = cluster.look();
  if (!seen) return fail(seen.error());
  if (s.prints_pages()) {
    std::cout << top_frame(seen->status, seen->placement, seen->operations, {.utf8 = utf8_wanted()}) << std::flush;
  } else {
    s.print({{"status", seen->status}, {"placement", seen->placement}, {"operations", seen->operations.at("items")}},
            {.items = "placement/nodes", .columns = {}, .name = "{name}"});
  }
  return exit_code::ok;
}

result<exit_code> watch(observer& cluster) {
  install_interrupt_handler();
  live_screen screen;
  while (interrupt_count() == 0) {
    const auto [width, height] = live_screen::size();
    const auto seen = cluster.look();
    screen.draw(seen ? top_frame(seen->status, seen->placement, seen->operations, {width, height - 1, utf8_wanted()})
                     : fmt::format("error: {}\n\ntrying again; q quits\n", seen.error().message));
    if (screen.wait_for_key(frame_interval) == 'q') return exit_code::ok;
  }
  return exit_code::interrupted;
}

result<exit_code> top(const session& s, bool once) {
  observer cluster{s};
  const bool live = !once && stdin_is_terminal() && stdout_is_terminal() && s.format() == output_format::table;
  return live ? watch(cluster) : print_once(s, cluster);
}

}  // namespace

void add_top_verb(verb_registry& verbs) {
  auto once = std::make_shared<bool>(false);
  auto& verb = verbs.verb("top", "Live view of nodes, balance, traffic per expert and operations; q quits.",
                          "  troupe top\n  troupe top --once", [once](const session& s) { return top(s, *once); });
  verb.add_flag("--once", *once, "print one frame; so does a pipe");
}

}  // namespace troupe::cli
