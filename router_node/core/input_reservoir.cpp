#include "router_node/core/input_reservoir.hpp"

#include <algorithm>
#include <cstring>

#include "router_node/core/types.hpp"

namespace troupe::router {
namespace {

void copy_row(kept_inputs& kept, std::uint64_t to, std::span<const std::byte> row, float weight) {
  std::memcpy(kept.rows.data() + to * kept.row_bytes, row.data(), kept.row_bytes);
  kept.gate_weights[to] = weight;
}

}  // namespace

void input_reservoir::watch(const std::vector<expert_id>& cold) {
  if (!is_on()) return;
  std::map<layer_id, std::map<std::uint32_t, reservoir>> watched;
  for (const auto& expert : cold) {
    auto& target = watched[expert.layer][expert.index];
    if (auto layer = layers_.find(expert.layer); layer != layers_.end()) {
      if (auto known = layer->second.find(expert.index); known != layer->second.end()) {
        target = std::move(known->second);
      }
    }
  }
  layers_ = std::move(watched);
  watched_ = cold.size();
  for (auto& [layer, experts] : layers_) {
    for (auto& [index, target] : experts) {
      if (target.kept.row_bytes == 0) continue;  // has seen no row yet
      if (auto capacity = capacity_for(target.kept.row_bytes); capacity < target.capacity) {
        thin_out(target, capacity);
      }
    }
  }
}

void input_reservoir::offer(const answered_rows& answered) {
  const auto layer = layers_.find(answered.layer);
  if (layer == layers_.end() || answered.rows == 0) return;
  const auto& routing = answered.routing;
  const auto row_bytes = answered.matrix.size() / answered.rows;
  for (std::size_t a = 0; a < routing.expert_ids.size(); ++a) {
    const auto id = routing.expert_ids[a];
    if (id < 0 || (!routing.dropped.empty() && routing.dropped[a] != 0)) continue;
    const auto found = layer->second.find(static_cast<std::uint32_t>(id));
    const auto row = a / routing.top_k;
    if (found == layer->second.end() || (answered.flags[row] & flag_missing) != 0) continue;
    auto& target = found->second;
    auto& kept = target.kept;
    if (kept.row_bytes == 0) {
      kept.row_bytes = row_bytes;
      kept.type = answered.type;
      target.capacity = capacity_for(row_bytes);
      kept.rows.reserve(target.capacity * row_bytes);
      kept.gate_weights.reserve(target.capacity);
    }
    kept.epoch = std::max(kept.epoch, answered.epoch);
    keep(target, answered.matrix.subspan(row * row_bytes, row_bytes), routing.weights[a]);
  }
}

void input_reservoir::keep(reservoir& target, std::span<const std::byte> row, float weight) {
  auto& kept = target.kept;
  const auto number = kept.rows_seen++;
  const auto count = kept.gate_weights.size();
  if (count < target.capacity) {
    kept.rows.resize((count + 1) * kept.row_bytes);
    kept.gate_weights.push_back(0);
    return copy_row(kept, count, row, weight);
  }
  const auto place = std::uniform_int_distribution<std::uint64_t>(0, number)(random_);
  if (place < target.capacity) copy_row(kept, place, row, weight);
}

void input_reservoir::thin_out(reservoir& target, std::uint64_t capacity) {
  const auto& had = target.kept;
  kept_inputs fewer{had.type, had.row_bytes, {}, {}, had.rows_seen, had.epoch};
  fewer.rows.reserve(capacity * had.row_bytes);
  fewer.gate_weights.reserve(capacity);
  std::vector<std::uint64_t> places(had.gate_weights.size());
  for (std::uint64_t i = 0; i < places.size(); ++i) places[i] = i;
  std::vector<std::uint64_t> chosen;
  std::ranges::sample(places, std::back_inserter(chosen), static_cast<std::ptrdiff_t>(capacity), random_);
  for (const auto place : chosen) {
    const auto* row = had.rows.data() + place * had.row_bytes;
    fewer.rows.insert(fewer.rows.end(), row, row + had.row_bytes);
    fewer.gate_weights.push_back(had.gate_weights[place]);
  }
  target.kept = std::move(fewer);
  target.capacity = capacity;
}

std::uint64_t input_reservoir::capacity_for(std::uint64_t row_bytes) const {
  const auto share = bytes_max_ / std::max<std::uint64_t>(watched_, 1);
  return std::min<std::uint64_t>(rows_max_, share / (row_bytes + sizeof(float)));
}

const kept_inputs* input_reservoir::find(const expert_id& expert) const {
  const auto layer = layers_.find(expert.layer);
  if (layer == layers_.end()) return nullptr;
  const auto found = layer->second.find(expert.index);
  return found == layer->second.end() ? nullptr : &found->second.kept;
}

std::uint64_t input_reservoir::rows_kept() const {
  std::uint64_t sum = 0;
  for (const auto& [layer, experts] : layers_) {
    for (const auto& [index, target] : experts) sum += target.kept.gate_weights.size();
  }
  return sum;
}

// With the room that is set aside.
std::uint64_t input_reservoir::bytes_kept() const {
  std::uint64_t sum = 0;
  for (const auto& [layer, experts] : layers_) {
    for (const auto& [index, target] : experts) {
      sum += target.kept.rows.capacity() + target.kept.gate_weights.capacity() * sizeof(float);
    }
  }
  return sum;
}

}  // namespace troupe::router
