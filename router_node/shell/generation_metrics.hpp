// What the generation engine counts. The engine's thread writes, any thread collects.
#pragma once

#include <cstdint>
#include <vector>

#include "common/http/metrics.hpp"
#include "router_node/core/generation.hpp"

namespace troupe::router {

class scheduler;

// Texts under way.
struct text_load {
  double running{};
  double waiting{};
};

class generation_metrics {
 public:
  generation_metrics();

  void on_first_token(std::chrono::nanoseconds since_arrival);
  void on_next_token(std::chrono::nanoseconds since_last);
  void on_end(const generation_end& end, std::chrono::nanoseconds since_arrival);
  void on_error(errc code);
  void on_cancelled() { aborted_.add(); }
  void refresh(const scheduler& s);

  // For http::metrics_registry.
  void collect(std::vector<http::metric_family>& families) const;
  [[nodiscard]] text_load load() const;  // any thread

 private:
  http::histogram first_token_, next_token_, duration_;
  http::counter stop_, length_, error_, aborted_, rejected_, expired_;
  http::counter prompt_tokens_, answer_tokens_, approximate_tokens_;
  http::gauge running_, waiting_, stalled_, blocks_used_ratio_, cached_tokens_, preemptions_, steps_, behind_,
      unpinned_;
};

}  // namespace troupe::router
