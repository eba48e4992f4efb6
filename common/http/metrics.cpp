#include "common/http/metrics.hpp"

#include <algorithm>
#include <array>
#include <map>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace troupe::http {
namespace {

prometheus::MetricType to_prometheus(metric_kind kind) {
  switch (kind) {
    case metric_kind::counter:
      return prometheus::MetricType::Counter;
    case metric_kind::gauge:
      return prometheus::MetricType::Gauge;
    case metric_kind::histogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

prometheus::ClientMetric to_prometheus(metric_kind kind, metric_sample&& sample) {
  prometheus::ClientMetric metric;
  for (auto& [name, value] : sample.labels) metric.label.push_back({std::move(name), std::move(value)});
  if (kind == metric_kind::counter) metric.counter.value = sample.value;
  if (kind == metric_kind::gauge) metric.gauge.value = sample.value;
  if (kind == metric_kind::histogram && !sample.cumulative.empty()) {
    for (std::size_t i = 0; i < sample.bounds.size(); ++i) {
      metric.histogram.bucket.push_back({sample.cumulative[i], sample.bounds[i]});
    }
    metric.histogram.sample_count = sample.cumulative.back();
    metric.histogram.sample_sum = sample.sum;
  }
  return metric;
}

}  // namespace

histogram::histogram(std::span<const double> upper_bounds)
    : bounds_(upper_bounds.begin(), upper_bounds.end()), buckets_(upper_bounds.size() + 1) {}

void histogram::observe(double value) {
  auto at = std::ranges::lower_bound(bounds_, value);
  buckets_[static_cast<std::size_t>(at - bounds_.begin())].add();
  sum_.add(value);
}

std::vector<std::uint64_t> histogram::cumulative() const {
  std::vector<std::uint64_t> counts;
  counts.reserve(buckets_.size());
  std::uint64_t total = 0;
  for (const auto& bucket : buckets_) {
    total += static_cast<std::uint64_t>(bucket.value());
    counts.push_back(total);
  }
  return counts;
}

std::span<const double> latency_bounds() {
  static constexpr std::array bounds{0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                     0.05,    0.1,    0.25,    0.5,    1.0,   2.5,    5.0,   10.0, 60.0};
  return bounds;
}

void metric_family::add(label_list labels, const histogram& h) {
  samples.push_back({.labels = std::move(labels), .bounds = h.bounds(), .cumulative = h.cumulative(), .sum = h.sum()});
}

metric_family mailbox_family(const std::vector<std::pair<std::string, double>>& waiting) {
  metric_family family{"moe_actor_mailbox_depth", "Messages that wait for the actor.", metric_kind::gauge};
  for (const auto& [name, messages] : waiting) family.add({{"name", name}}, messages);
  return family;
}

void metrics_registry::add(source from) {
  std::lock_guard lock(mutex_);
  sources_.push_back(std::move(from));
}

std::string metrics_registry::text() const {
  std::vector<metric_family> families;
  {
    std::lock_guard lock(mutex_);
    for (const auto& from : sources_) from(families);
  }
  std::vector<prometheus::MetricFamily> output;
  std::map<std::string, std::size_t> places;
  for (auto& family : families) {
    auto [place, is_new] = places.emplace(family.name, output.size());
    if (is_new) output.push_back({family.name, family.help, to_prometheus(family.kind), {}});
    auto& metrics = output[place->second].metric;
    for (auto& sample : family.samples) metrics.push_back(to_prometheus(family.kind, std::move(sample)));
  }
  return prometheus::TextSerializer{}.Serialize(output);
}

}  // namespace troupe::http
