#include "model/refresh.hpp"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/json_document.hpp"
#include "model/manifest.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

constexpr std::string_view advice = "a refresh changes the values of experts only";
constexpr std::size_t chunk_bytes = 4 * limits::mib;

std::string describe_tensor(const tensor_info& tensor) {
  return fmt::format("{} [{}]", to_string(tensor.type), fmt::join(tensor.shape, ","));
}

// Keys that say who wrote the file, not what the model computes.
void drop_provenance(nlohmann::json& config) {
  config.erase("_name_or_path");
  config.erase("transformers_version");
}

result<void> compare_configs(const checkpoint& served, const checkpoint& next, problem_list& problems) {
  auto before = parse_json(served.config_text(), served.config_text().size());
  if (!before) return fail(before.error());
  auto after = parse_json(next.config_text(), next.config_text().size());
  if (!after) return fail(after.error());
  drop_provenance(*before);
  drop_provenance(*after);
  std::set<std::string> keys;
  for (const auto* config : {&*before, &*after}) {
    for (const auto& [key, value] : config->items()) keys.insert(key);
  }
  for (const auto& key : keys) {
    bool is_same = before->contains(key) && after->contains(key) && (*before)[key] == (*after)[key];
    if (!is_same) problems.add("config.json: " + printable(key), "as in the served checkpoint", "different");
  }
  return {};
}

void compare_shapes(const checkpoint& served, const checkpoint& next, problem_list& problems) {
  for (const auto& [name, tensor] : served.tensors()) {
    const auto* other = next.find_tensor(name);
    auto expected = describe_tensor(tensor);
    auto found = other == nullptr ? "missing" : describe_tensor(*other);
    if (expected != found) problems.add(printable(name), expected, found);
  }
  for (const auto& [name, tensor] : next.tensors()) {
    if (served.find_tensor(name) == nullptr) problems.add(printable(name), "no such tensor", describe_tensor(tensor));
  }
}

result<bool> is_equal(const checkpoint& served, const checkpoint& next, const tensor_info& tensor) {
  std::vector<std::byte> before, after;
  for (std::uint64_t begin = 0; begin < tensor.bytes; begin += before.size()) {
    before.resize(std::min<std::uint64_t>(chunk_bytes, tensor.bytes - begin));
    after.resize(before.size());
    if (auto read = served.read_piece(tensor.name, begin, before); !read) return fail(read.error());
    if (auto read = next.read_piece(tensor.name, begin, after); !read) return fail(read.error());
    if (before != after) return false;
  }
  return true;
}

result<void> compare_outside_experts(const checkpoint& served, const checkpoint& next) {
  std::set<std::string> of_experts;
  for (const auto& layer : served.model().layers) {
    for (const auto& expert : layer.experts) {
      for (const auto& tensor : expert.tensors) of_experts.insert(tensor.name);
    }
  }
  for (const auto& [name, tensor] : served.tensors()) {
    if (of_experts.contains(name)) continue;
    auto same = is_equal(served, next, tensor);
    if (!same) return fail(same.error());
    if (!*same) {
      return fail(errc::invalid_request,
                  fmt::format("tensor \"{}\" differs from the served one; {}", printable(name), advice));
    }
  }
  return {};
}

// Of one expert's new weights, once they are found to be as they should.
result<sha256_digest> check_expert(const checkpoint& next, const bundle_layout& layout, const digest_manifest* manifest,
                                   std::vector<std::byte>& bytes) {
  bytes.resize(layout.bytes());
  if (auto read = next.read_bundle(layout, bytes); !read) return fail(read.error());
  auto digest = digest_of(bytes);
  if (manifest != nullptr) {
    if (auto known = check_digest(*manifest, layout.id, digest); !known) return fail(known.error());
  }
  if (auto finite = check_finite(layout, bytes); !finite) return fail(finite.error());
  return digest;
}

}  // namespace

result<expert_digests> digests_for_refresh(const checkpoint& served, const checkpoint& next) {
  problem_list problems;
  if (auto read = compare_configs(served, next, problems); !read) return fail(read.error());
  compare_shapes(served, next, problems);
  if (!problems.empty()) return fail(problems.to_error(next.folder().string(), advice));
  auto manifest = read_manifest(next.folder(), next.model());
  if (!manifest) return fail(manifest.error());
  if (auto same = compare_outside_experts(served, next); !same) return fail(same.error());
  expert_digests found;
  std::vector<std::byte> bytes;
  for (const auto& layer : next.model().layers) {
    for (const auto& expert : layer.experts) {
      auto digest = check_expert(next, expert, *manifest ? &**manifest : nullptr, bytes);
      if (!digest) return fail(digest.error());
      found.emplace(expert.id, *digest);
    }
  }
  return found;
}

}  // namespace troupe::model
