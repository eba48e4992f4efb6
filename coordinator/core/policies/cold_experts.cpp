#include "coordinator/core/policies/cold_experts.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::coordinator {
namespace {

constexpr auto window_seconds = std::chrono::duration_cast<std::chrono::seconds>(limits::traffic_window).count();

double hours(std::chrono::milliseconds length) {
  return std::chrono::duration<double, std::ratio<3600>>(length).count();
}

class judge {
 public:
  judge(const policy_settings& settings, std::chrono::steady_clock::time_point now, cold_experts& known)
      : settings_(settings), now_(now), known_(known) {}

  void look_at(const watched_layer& layer) {
    std::uint64_t rows = 0;
    for (const auto& expert : layer.experts) rows += expert.rows;
    bool is_enough = rows >= limits::cold_rows_per_expert_min * layer.experts.size() && layer.experts.size() > 1;
    auto fair = static_cast<double>(rows) / static_cast<double>(layer.experts.size());
    for (const auto& expert : layer.experts) {
      expert_id id{layer.id, expert.index};
      if (is_enough) look_at(id, expert, rows, static_cast<double>(expert.rows) / fair);
      // Its weights grow old whether rows come or not.
      if (auto at = known_.find(id); at != known_.end()) look_at_age(id, expert, at->second);
      if (auto was = known_.extract(id)) kept_.insert(std::move(was));
    }
  }

  // What is left in `known` belongs to experts that do not take part any more.
  std::vector<cold_change> finish() {
    known_ = std::move(kept_);
    return std::move(changes_);
  }

 private:
  void look_at(const expert_id& id, const watched_expert& expert, std::uint64_t layer_rows, double of_fair_share) {
    auto at = known_.find(id);
    bool was_cold = at != known_.end();
    auto bound = settings_.cold_share * (was_cold ? limits::cold_warm_factor : 1.0);
    if (of_fair_share >= bound || expert.is_new) {
      if (!was_cold) return;
      known_.erase(at);
      return say(cold_change::kind::warm, id, figures(expert.rows, layer_rows, of_fair_share));
    }
    auto& entry = known_[id];
    entry.rows = expert.rows;
    entry.layer_rows = layer_rows;
    entry.of_fair_share = of_fair_share;
    if (was_cold) return;
    entry.since = now_;
    say(cold_change::kind::cold, id,
        fmt::format("{} (cold under {:.2f})", figures(expert.rows, layer_rows, of_fair_share), settings_.cold_share));
  }

  void look_at_age(const expert_id& id, const watched_expert& expert, cold_entry& entry) {
    entry.age = expert.age;
    if (expert.age < settings_.cold_stale_after || entry.told_stale == expert.version) return;
    entry.told_stale = expert.version;
    say(cold_change::kind::stale, id,
        fmt::format(
            "cold, and version {} of its weights has served for {:.1f} h; train it on its inputs (troupe expert "
            "export-inputs {}) and refresh it",
            expert.version.value, hours(expert.age), to_string(id)));
  }

  static std::string figures(std::uint64_t rows, std::uint64_t layer_rows, double of_fair_share) {
    return fmt::format("{} of its layer's {} rows in the last {} s, {:.2f} times its fair share", rows, layer_rows,
                       window_seconds, of_fair_share);
  }

  void say(cold_change::kind what, const expert_id& id, std::string why) {
    changes_.push_back({what, id, std::move(why)});
  }

  const policy_settings& settings_;
  const std::chrono::steady_clock::time_point now_;
  cold_experts& known_;
  cold_experts kept_;
  std::vector<cold_change> changes_;
};

}  // namespace

std::string_view to_string(cold_change::kind what) {
  constexpr std::string_view names[] = {"expert_cold", "expert_warm", "expert_stale"};
  return names[static_cast<std::size_t>(what)];
}

std::vector<cold_change> judge_cold(const std::vector<watched_layer>& layers, const policy_settings& settings,
                                    std::chrono::steady_clock::time_point now, cold_experts& known) {
  judge judging(settings, now, known);
  for (const auto& layer : layers) judging.look_at(layer);
  return judging.finish();
}

// FNV-1a over the experts.
std::uint64_t fingerprint(const cold_experts& known) {
  if (known.empty()) return 0;
  std::uint64_t hash = 14695981039346656037ULL;
  for (const auto& [id, entry] : known) {
    for (std::uint64_t part : {std::uint64_t{id.layer.value}, std::uint64_t{id.index}}) {
      hash = (hash ^ part) * 1099511628211ULL;
    }
  }
  return hash == 0 ? 1 : hash;
}

}  // namespace troupe::coordinator
