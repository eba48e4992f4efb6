#include "model/checkpoint.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "model/checkpoint_files.hpp"
#include "model/end_tokens.hpp"
#include "model/families/families.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

// What tells two checkpoints apart without reading their weights: the digests do that.
std::string fingerprint_of(const checkpoint_files& files) {
  std::string text = fmt::format("{}\n{}\n", files.config.size(), files.config);
  for (const auto& [name, tensor] : files.tensors) {
    text += fmt::format("{} {} [{}] {} {} {}\n", name, to_string(tensor.type), fmt::join(tensor.shape, ","),
                        files.names[tensor.file], tensor.offset, tensor.bytes);
  }
  return to_hex(digest_of(std::as_bytes(std::span{text})));
}

bool is_float(dtype type) { return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16; }

constexpr std::size_t elements_per_chunk = 4096;

// Index of the first element that is NaN or infinite; `count` when there is none.
std::size_t find_nonfinite(dtype type, const std::byte* source, std::size_t count) {
  std::vector<float> chunk(std::min(count, elements_per_chunk));
  for (std::size_t begin = 0; begin < count; begin += chunk.size()) {
    auto length = std::min(chunk.size(), count - begin);
    convert(type, source + begin * bytes_per_element(type), dtype::f32, reinterpret_cast<std::byte*>(chunk.data()),
            length);
    for (std::size_t i = 0; i < length; ++i) {
      if (!std::isfinite(chunk[i])) return begin + i;
    }
  }
  return count;
}

}  // namespace

struct checkpoint::state {
  checkpoint_files files;
  std::vector<std::filesystem::path> paths;
  description model;
};

checkpoint::checkpoint(std::unique_ptr<state> s) : state_(std::move(s)) {}
checkpoint::checkpoint(checkpoint&&) noexcept = default;
checkpoint& checkpoint::operator=(checkpoint&&) noexcept = default;
checkpoint::~checkpoint() = default;

result<checkpoint> checkpoint::open(const std::filesystem::path& folder) {
  auto files = open_checkpoint_files(folder);
  if (!files) return fail(files.error());
  auto model = describe(files->config, files->tensors);
  if (!model) return fail(model.error().code, fmt::format("{}: {}", files->folder.string(), model.error().message));
  model->name = files->folder.filename().string();
  model->fingerprint = fingerprint_of(*files);
  auto opened = std::make_unique<state>();
  for (const auto& shard : files->shards) opened->paths.push_back(shard.path());
  opened->files = std::move(*files);
  opened->model = std::move(*model);
  return checkpoint{std::move(opened)};
}

const description& checkpoint::model() const { return state_->model; }

result<trunk_description> checkpoint::trunk() const {
  auto trunk = describe_trunk(state_->files.config, state_->files.tensors);
  if (!trunk) return fail(trunk.error().code, fmt::format("{}: {}", folder().string(), trunk.error().message));
  auto end_tokens = read_end_tokens(folder(), state_->files.config, trunk->vocabulary);
  if (!end_tokens) return fail(end_tokens.error());
  trunk->end_tokens = std::move(*end_tokens);
  return trunk;
}

const std::filesystem::path& checkpoint::folder() const { return state_->files.folder; }
const std::vector<std::filesystem::path>& checkpoint::files() const { return state_->paths; }

const tensor_info* checkpoint::find_tensor(const std::string& name) const {
  auto found = state_->files.tensors.find(name);
  return found == state_->files.tensors.end() ? nullptr : &found->second;
}

const tensor_index& checkpoint::tensors() const { return state_->files.tensors; }
const std::string& checkpoint::config_text() const { return state_->files.config; }

result<void> checkpoint::read_piece(const std::string& name, std::uint64_t begin, std::span<std::byte> target) const {
  const auto* tensor = find_tensor(name);
  assert(tensor != nullptr && begin <= tensor->bytes && target.size() <= tensor->bytes - begin);
  return state_->files.shards[tensor->file].read(tensor->offset + begin, target);
}

result<std::vector<float>> checkpoint::read_f32(const std::string& name) const {
  const auto* tensor = find_tensor(name);
  if (tensor == nullptr) {
    return fail(errc::not_found, fmt::format("{} holds no tensor \"{}\"", folder().string(), printable(name)));
  }
  if (!is_float(tensor->type)) {
    return fail(errc::invalid_request, fmt::format("tensor \"{}\" is {}; only F32, F16 and BF16 are read as numbers",
                                                   printable(name), to_string(tensor->type)));
  }
  std::vector<std::byte> stored(tensor->bytes);
  if (auto read = state_->files.shards[tensor->file].read(tensor->offset, stored); !read) return fail(read.error());
  std::vector<float> values(stored.size() / bytes_per_element(tensor->type));
  convert(tensor->type, stored.data(), dtype::f32, reinterpret_cast<std::byte*>(values.data()), values.size());
  return values;
}

result<gate_parameters> checkpoint::read_gate(const gating& gate) const {
  gate_parameters parameters;
  for (auto [name, target] : {std::pair{&gate.weight, &parameters.weight},
                              {&gate.bias, &parameters.bias},
                              {&gate.correction_bias, &parameters.correction_bias}}) {
    if (name->empty()) continue;
    auto values = read_f32(*name);
    if (!values) return fail(values.error());
    if (!std::ranges::all_of(*values, [](float x) { return std::isfinite(x); })) {
      return fail(errc::invalid_request, fmt::format("tensor \"{}\" holds NaN or infinite values, so no expert can be "
                                                     "chosen; restore the checkpoint",
                                                     printable(*name)));
    }
    *target = std::move(*values);
  }
  return parameters;
}

result<void> checkpoint::read_bundle(const bundle_layout& layout, std::span<std::byte> target) const {
  assert(target.size() == layout.bytes());
  for (const auto& tensor : layout.tensors) {
    const auto& shard = state_->files.shards[tensor.file];
    if (auto read = shard.read(tensor.offset, target.first(tensor.bytes)); !read) return read;
    shard.drop_cache(tensor.offset, tensor.bytes);
    target = target.subspan(tensor.bytes);
  }
  return {};
}

result<void> check_finite(const bundle_layout& layout, std::span<const std::byte> bundle_bytes) {
  assert(bundle_bytes.size() == layout.bytes());
  for (const auto& tensor : layout.tensors) {
    auto count = tensor.bytes / bytes_per_element(tensor.type);
    auto place = find_nonfinite(tensor.type, bundle_bytes.data(), count);
    if (place < count) {
      return fail(errc::invalid_request,
                  fmt::format("expert {}: element {} of its piece of tensor \"{}\" is NaN or infinite; restore the "
                              "checkpoint, or load with --allow-nonfinite",
                              to_string(layout.id), place, printable(tensor.name)));
    }
    bundle_bytes = bundle_bytes.subspan(tensor.bytes);
  }
  return {};
}

}  // namespace troupe::model
