#include "model/inspect.hpp"

#include <algorithm>
#include <cmath>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace troupe::model {
namespace {

class verifier {
 public:
  verifier(const checkpoint& source, const std::function<bool(const verify_progress&)>& on_progress)
      : source_(source), on_progress_(on_progress) {
    const auto& model = source.model();
    report_.digests.fingerprint = model.fingerprint;
    progress_.bytes_total = model.bundle_bytes();
    for (const auto& layer : model.layers) progress_.experts_total += layer.experts.size();
  }

  result<verify_report> run() {
    read_old_manifest();
    for (const auto& layer : source_.model().layers) {
      note(source_.read_gate(layer.gate));
      if (layer.shared) check_shared(*layer.shared);
      for (const auto& expert : layer.experts) {
        check_expert(expert);
        progress_.experts_done += 1;
        progress_.bytes_done += expert.bytes();
        if (on_progress_ && !on_progress_(progress_)) {
          return fail(errc::cancelled,
                      fmt::format("stopped after {} of {} experts", progress_.experts_done, progress_.experts_total));
        }
      }
    }
    return std::move(report_);
  }

 private:
  template <class T>
  bool note(const result<T>& outcome) {
    if (!outcome) report_.problems.push_back(outcome.error());
    return outcome.has_value();
  }

  void read_old_manifest() {
    auto manifest = read_manifest(source_.folder(), source_.model());
    if (!note(manifest)) return;
    manifest_ = std::move(*manifest);
    report_.had_manifest = manifest_.has_value();
  }

  void check_shared(const shared_expert& shared) {
    for (const auto& name : {shared.gate, shared.up, shared.down, shared.sigmoid_gate}) {
      if (name.empty()) continue;
      auto values = source_.read_f32(name);
      if (note(values) && !std::ranges::all_of(*values, [](float x) { return std::isfinite(x); })) {
        report_.problems.push_back({errc::invalid_request, fmt::format("tensor \"{}\" holds NaN or infinite values; "
                                                                       "restore the checkpoint",
                                                                       name)});
      }
    }
  }

  void check_expert(const bundle_layout& expert) {
    buffer_.resize(expert.bytes());
    if (!note(source_.read_bundle(expert, buffer_))) return;
    auto digest = digest_of(buffer_);
    report_.digests.digests.emplace(expert.id, digest);
    if (manifest_) note(check_digest(*manifest_, expert.id, digest));
    note(check_finite(expert, buffer_));
  }

  const checkpoint& source_;
  const std::function<bool(const verify_progress&)>& on_progress_;
  std::optional<digest_manifest> manifest_;
  verify_progress progress_;
  verify_report report_;
  std::vector<std::byte> buffer_;
};

}  // namespace

checkpoint_summary summarise(const checkpoint& source) {
  const auto& model = source.model();
  checkpoint_summary summary;
  summary.name = model.name;
  summary.family = model.family;
  summary.fingerprint = model.fingerprint;
  summary.hidden = model.hidden;
  summary.stored = model.stored;
  for (const auto& layer : model.layers) {
    layer_summary one;
    one.id = layer.id;
    one.experts = layer.gate.num_experts;
    one.top_k = layer.gate.top_k;
    one.shape = layer.shape;
    one.shared_width = layer.shared ? layer.shared->width : 0;
    for (const auto& expert : layer.experts) one.bytes_per_expert = std::max(one.bytes_per_expert, expert.bytes());
    summary.layers.push_back(one);
    summary.experts += layer.experts.size();
  }
  summary.expert_bytes = model.bundle_bytes();
  summary.files = source.files().size();
  for (const auto& path : source.files()) {
    std::error_code gone;  // counts as empty: this is information, the reader of the bytes will complain
    auto bytes = std::filesystem::file_size(path, gone);
    summary.file_bytes += gone ? 0 : bytes;
  }
  return summary;
}

result<verify_report> verify(const checkpoint& source, const std::function<bool(const verify_progress&)>& on_progress) {
  return verifier{source, on_progress}.run();
}

}  // namespace troupe::model
