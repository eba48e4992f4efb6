// Stand-ins for the expert node's surroundings: a device whose arithmetic can be checked by eye, ports that record.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "compute/device.hpp"
#include "expert_node/shell/host_ports.hpp"

namespace troupe::expert::testing {

// f32; expert in slot s multiplies a row by the first float of its bundle. Shared facts outlive the device.
struct device_log {
  std::vector<std::size_t> batch_rows;
  std::map<std::uint32_t, float> factors;  // of the loaded slots
  std::thread::id made_on, released_on, ran_on;
  std::function<result<void>()> fail_run;  // set: what the next runs answer
  bool is_lost{};
};

class fake_device : public compute::device {
 public:
  explicit fake_device(std::shared_ptr<device_log> log) : log_{std::move(log)} {
    log_->made_on = std::this_thread::get_id();
  }
  ~fake_device() override { log_->released_on = std::this_thread::get_id(); }

  compute::device_info info() const override { return {"fake", "multiplies", dtype::f32, 1, {}, 0}; }
  std::size_t slot_bytes(const model::expert_shape& shape) const override { return shape.hidden * 4; }
  result<void> reserve(std::uint32_t, std::size_t) override { return {}; }
  result<void> load(slot_index slot, const model::bundle_layout&, std::span<const std::byte> bundle) override {
    float factor = 0;
    std::memcpy(&factor, bundle.data(), sizeof factor);
    log_->factors[slot.value] = factor;
    return {};
  }
  result<void> export_bundle(slot_index slot, const model::bundle_layout&, std::span<std::byte> target) const override {
    std::memset(target.data(), 0, target.size());
    std::memcpy(target.data(), &log_->factors.at(slot.value), sizeof(float));
    return {};
  }
  void unload(slot_index slot) override { log_->factors.erase(slot.value); }
  bool is_lost() const override { return log_->is_lost; }

  result<void> run(const compute::batch& work, std::span<compute::group_report> reports) override {
    log_->ran_on = std::this_thread::get_id();
    if (log_->fail_run) {
      if (auto outcome = log_->fail_run(); !outcome) return outcome;
    }
    std::vector<std::pair<const float*, float*>> rows;
    for (const auto& segment : work.segments) {
      for (std::uint32_t row = 0; row < segment.rows; ++row) {
        auto skip = std::size_t{row} * work.shape.hidden * sizeof(float);
        rows.emplace_back(static_cast<const float*>(static_cast<const void*>(segment.input + skip)),
                          static_cast<float*>(static_cast<void*>(segment.output + skip)));
        std::memset(rows.back().second, 0, work.shape.hidden * sizeof(float));
      }
    }
    for (std::size_t g = 0; g < work.groups.size(); ++g) {
      const auto& group = work.groups[g];
      float factor = log_->factors.at(group.slot.value);
      for (std::size_t entry = 0; entry < group.rows.size(); ++entry) {
        auto [in, out] = rows.at(group.rows[entry]);
        for (std::uint32_t i = 0; i < work.shape.hidden; ++i) out[i] += group.gate_weights[entry] * factor * in[i];
      }
      reports[g] = {static_cast<double>(group.rows.size()), 0.5};
    }
    log_->batch_rows.push_back(rows.size());
    return {};
  }

 private:
  std::shared_ptr<device_log> log_;
};

class recording_ports : public host_ports {
 public:
  void answer(call_handle call) override { answers.push_back(std::move(call)); }
  void batch_computed(double) override { ++batches; }
  void start_load(load_job job) override { loads.push_back(std::move(job)); }
  void start_unload(slot_index slot) override { unloads.push_back(slot); }
  void inventory(std::vector<slot_report> slots) override { inventories.push_back(std::move(slots)); }
  void device_lost(const std::string& reason) override { losses.push_back(reason); }
  void statistics(statistics_report report) override { reports.push_back(std::move(report)); }

  std::size_t batches{};
  std::vector<call_handle> answers;
  std::vector<load_job> loads;
  std::vector<slot_index> unloads;
  std::vector<std::vector<slot_report>> inventories;
  std::vector<std::string> losses;
  std::vector<statistics_report> reports;
};

// A call with its own memory: `hidden` [rows, width] f32.
struct owned_rows {
  std::vector<float> input;
  std::vector<float> output;
};

inline call_handle make_call(std::uint64_t request, layer_id layer, std::uint32_t width, std::vector<float> hidden) {
  auto call = std::make_shared<expert_call>();
  auto rows = std::make_shared<owned_rows>();
  rows->input = std::move(hidden);
  rows->output.assign(rows->input.size(), -1.0F);
  call->id = {{1}, {request}, 0};
  call->layer = layer;
  call->type = dtype::f32;
  call->rows = static_cast<std::uint32_t>(rows->input.size() / width);
  call->hidden = width;
  call->input = std::as_bytes(std::span{rows->input}).data();
  call->output = std::as_writable_bytes(std::span{rows->output}).data();
  call->storage = rows;
  return call;
}

// Every row of the call goes to that expert with that weight.
inline void ask(expert_call& call, std::uint32_t expert, float weight, std::uint32_t version = 1) {
  call.experts.push_back({expert, {version}, call.rows});
  for (std::uint32_t row = 0; row < call.rows; ++row) {
    call.row_index.push_back(row);
    call.gate_weight.push_back(weight);
  }
}

inline std::vector<float> output_of(const expert_call& call) {
  return std::static_pointer_cast<owned_rows>(call.storage)->output;
}

}  // namespace troupe::expert::testing
