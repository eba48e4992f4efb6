#include "cli/simulation/synthetic_loads.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace troupe::cli {
namespace {

constexpr double drift_sigma = 0.6, drift_hours = 6;
constexpr std::size_t num_domains = 3;
constexpr double domain_hours = 4, domain_change_hours = 1.0 / 6;
constexpr double crowd_hours = 3, crowd_fades_hours = 0.5, crowd_factor = 8;
constexpr std::size_t experts_per_crowd = 32;

}  // namespace

std::uint32_t count_steps(const synthetic_settings& settings) {
  return static_cast<std::uint32_t>(std::max(1.0, std::ceil(settings.hours * 60 / settings.step_minutes)));
}

synthetic_loads::synthetic_loads(const synthetic_settings& settings) : settings_{settings}, random_{settings.seed} {
  domains_.resize(settings.shape == load_shape::domain_shift ? num_domains : 1);
  std::vector<double> ranks(settings.experts);
  for (std::uint32_t e = 0; e < settings.experts; ++e) ranks[e] = std::pow(e + 1.0, -settings.zipf);
  for (auto& domain : domains_) {
    domain.assign(settings.layers, ranks);
    for (auto& layer : domain) shuffle(layer);
  }
  parts_.assign(domains_.size(), 0);
  parts_[0] = 1;
  shifts_.assign(settings.layers, std::vector<double>(settings.experts));
  now_ = shifts_;
  if (settings.shape == load_shape::drift) wander(true);
  if (settings.shape == load_shape::domain_shift) next_event_ = waiting_steps(domain_hours);
  if (settings.shape == load_shape::flash_crowd) next_event_ = waiting_steps(crowd_hours);
}

const step_loads& synthetic_loads::next() {
  if (step_ > 0 && settings_.shape == load_shape::drift) wander(false);
  if (settings_.shape == load_shape::flash_crowd) gather_crowd();
  if (settings_.shape == load_shape::domain_shift) change_domain();
  ++step_;
  for (std::size_t l = 0; l < now_.size(); ++l) {
    auto& layer = now_[l];
    double sum = 0;
    for (std::size_t e = 0; e < layer.size(); ++e) {
      layer[e] = popularity(l, e) * std::exp(shifts_[l][e] + settings_.noise * normal());
      sum += layer[e];
    }
    for (auto& load : layer) load *= rows_per_minute * settings_.step_minutes / sum;
  }
  return now_;
}

double synthetic_loads::uniform() { return static_cast<double>((random_() >> 11) + 1) * 0x1.0p-53; }

// Box and Muller: the same numbers with every standard library.
double synthetic_loads::normal() {
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

double synthetic_loads::waiting_steps(double hours_mean) {
  return -std::log(uniform()) * hours_mean * 60 / settings_.step_minutes;
}

double synthetic_loads::keeping(double hours) const { return std::exp(-(settings_.step_minutes / 60.0) / hours); }

void synthetic_loads::shuffle(std::vector<double>& layer) {
  for (auto e = layer.size(); e > 1; --e) std::swap(layer[e - 1], layer[random_() % e]);
}

// An Ornstein-Uhlenbeck process: as spread out at the end of the day as at its beginning.
void synthetic_loads::wander(bool from_nothing) {
  const double kept = from_nothing ? 0 : keeping(drift_hours);
  const double added = drift_sigma * std::sqrt(1 - kept * kept);
  for (auto& layer : shifts_) {
    for (auto& shift : layer) shift = kept * shift + added * normal();
  }
}

void synthetic_loads::gather_crowd() {
  const double kept = keeping(crowd_fades_hours);
  for (auto& layer : shifts_) {
    for (auto& shift : layer) shift *= kept;
  }
  for (; step_ >= next_event_; next_event_ += waiting_steps(crowd_hours)) {
    for (auto& layer : shifts_) {
      for (std::size_t i = 0; i < std::max<std::size_t>(1, layer.size() / experts_per_crowd); ++i) {
        layer[random_() % layer.size()] = std::log(crowd_factor);
      }
    }
  }
}

void synthetic_loads::change_domain() {
  for (; step_ >= next_event_; next_event_ += waiting_steps(domain_hours)) {
    domain_ = (domain_ + 1 + random_() % (num_domains - 1)) % num_domains;
  }
  const double most = settings_.step_minutes / 60.0 / domain_change_hours;
  double missing = 1;
  for (std::size_t d = 0; d < num_domains; ++d) {
    if (d != domain_) parts_[d] = std::max(0.0, parts_[d] - most);
    if (d != domain_) missing -= parts_[d];
  }
  parts_[domain_] = missing;
}

double synthetic_loads::popularity(std::size_t layer, std::size_t expert) const {
  double sum = 0;
  for (std::size_t d = 0; d < domains_.size(); ++d) sum += parts_[d] * domains_[d][layer][expert];
  return sum;
}

load_source source_of(const synthetic_settings& settings) {
  load_source source;
  source.layers.resize(settings.layers);
  std::iota(source.layers.begin(), source.layers.end(), 0U);
  source.experts.assign(settings.layers, settings.experts);
  source.steps = count_steps(settings);
  source.each_step = [settings](const step_visitor& use) {
    synthetic_loads loads{settings};
    for (std::uint32_t step = 0; step < count_steps(settings); ++step) use(step, loads.next());
  };
  return source;
}

}  // namespace troupe::cli
