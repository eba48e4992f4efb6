// Metrics: plain values that hot threads write and a scrape reads.
//
// A part of the program owns its counters (`counter`, `gauge`, `histogram`: one writer, no lock, no atomic
// read-modify-write) and registers a source: a function that, at each scrape, appends families of samples.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace troupe::http {

// Thread rule of the three: one writer thread; any reader.
class counter {
 public:
  void add(double amount = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  [[nodiscard]] double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

class gauge {
 public:
  void set(double value) { value_.store(value, std::memory_order_relaxed); }
  [[nodiscard]] double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

class histogram {
 public:
  explicit histogram(std::span<const double> upper_bounds);  // ascending, without +Inf
  void observe(double value);
  [[nodiscard]] const std::vector<double>& bounds() const { return bounds_; }
  // Cumulative, one per bound and a last one for +Inf.
  [[nodiscard]] std::vector<std::uint64_t> cumulative() const;
  [[nodiscard]] double sum() const { return sum_.value(); }

 private:
  std::vector<double> bounds_;
  std::vector<counter> buckets_;  // by bucket, not cumulative
  counter sum_;
};

// Seconds from 50 microseconds to one minute; 0.001, 0.005, 0.01, 0.05 and 0.1 are among them.
[[nodiscard]] std::span<const double> latency_bounds();

enum class metric_kind : std::uint8_t { counter, gauge, histogram };

using label_list = std::vector<std::pair<std::string, std::string>>;

struct metric_sample {
  label_list labels;
  double value{};
  // Only for histograms.
  std::vector<double> bounds{};
  std::vector<std::uint64_t> cumulative{};  // one more than bounds
  double sum{};
};

struct metric_family {
  std::string name;
  std::string help;
  metric_kind kind{metric_kind::counter};
  std::vector<metric_sample> samples{};

  void add(label_list labels, double value) { samples.push_back({std::move(labels), value}); }
  void add(label_list labels, const histogram& h);
};

// Thread rule: any thread.
class metrics_registry {
 public:
  // Called at each scrape, on the scraping thread. What it reads must outlive the registry.
  using source = std::function<void(std::vector<metric_family>&)>;

  void add(source from);
  // Prometheus text format 0.0.4. Families of one name from several sources are merged.
  [[nodiscard]] std::string text() const;

 private:
  mutable std::mutex mutex_;
  std::vector<source> sources_;
};

// process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds, ... read from /proc/self at each scrape.
[[nodiscard]] metrics_registry::source process_metrics();

// moe_build_info{version,commit,backend} 1
[[nodiscard]] metrics_registry::source build_metrics(std::string version, std::string commit, std::string backend);

// moe_actor_mailbox_depth{name}: messages that wait for each actor.
[[nodiscard]] metric_family mailbox_family(const std::vector<std::pair<std::string, double>>& waiting);

// moe_curve_handshake_failures_total: peers whose key was not let in.
[[nodiscard]] metrics_registry::source handshake_metrics(std::function<std::uint64_t()> refusals);

}  // namespace troupe::http
