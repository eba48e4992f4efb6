#include "model/checkpoint.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "model/checkpoint_files.hpp"
#include "model/end_tokens.hpp"
#include "model/families/families.hpp"
#include "model/problem_list.hpp"
#include "model/quantised.hpp"

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

constexpr std::size_t elements_per_chunk = 4096;

// Index of the first element that is NaN or infinite; `count` when there is none. @pre a plain type
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

// The same for scales of mxfp4, and for the weights that numbers and scales make together.
std::size_t find_nan(const std::byte* scales, std::size_t count) {
  return static_cast<std::size_t>(std::find(scales, scales + count, std::byte{0xff}) - scales);
}

std::size_t find_nonfinite(const quantised_matrix& matrix, std::size_t out) {
  std::vector<float> row(matrix.in);
  for (std::size_t o = 0; o < out; ++o) {
    dequantise_row(matrix, o, row.data());
    const auto place = std::ranges::find_if(row, [](float x) { return !std::isfinite(x); });
    if (place != row.end()) return o * matrix.in + static_cast<std::size_t>(place - row.begin());
  }
  return out * matrix.in;
}

// A tensor of a bundle with its bytes.
struct held_tensor {
  const bundle_tensor* tensor{};
  const std::byte* bytes{};
};

// Index of the first weight, scale or bias that is not finite. @pre the scales of quantised weights are in `all`
std::optional<std::size_t> find_nonfinite(const held_tensor& held, const bundle_layout& layout,
                                          std::span<const held_tensor> all) {
  const auto& tensor = *held.tensor;
  std::size_t count = tensor.bytes / bytes_per_element(tensor.type);
  std::size_t place = count;
  if (is_plain(tensor.type)) {
    place = find_nonfinite(tensor.type, held.bytes, count);
  } else if (is_scale(tensor.role)) {
    place = find_nan(held.bytes, count);
  } else {
    const auto scales =
        std::ranges::find(all, scale_of(tensor.role), [](const held_tensor& t) { return t.tensor->role; });
    if (tensor.type == dtype::u8) count *= 2;
    const auto in = static_cast<std::uint32_t>(count / tensor.shape[0]);
    place = find_nonfinite({.type = tensor.type,
                            .numbers = held.bytes,
                            .scale_type = scales->tensor->type,
                            .scales = scales->bytes,
                            .in = in,
                            .block = layout.block},
                           tensor.shape[0]);
  }
  return place < count ? std::optional{place} : std::nullopt;
}

}  // namespace

struct checkpoint::state {
  checkpoint_files files;
  std::vector<std::filesystem::path> paths;
  description model;

  // [out, in] as f32. invalid_request when the scales do not fit the weight.
  [[nodiscard]] result<std::vector<float>> dequantise(const tensor_info& weight, std::span<const std::byte> numbers,
                                                      const tensor_info& scales) const;
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
  const auto* scales = tensor->type == dtype::f8_e4m3 ? find_tensor(fp8_scale_name(name)) : nullptr;
  if (!is_plain(tensor->type) && scales == nullptr) {
    return fail(errc::invalid_request,
                fmt::format("tensor \"{}\" is {}; only F32, F16, BF16 and F8_E4M3 with scales are read as numbers",
                            printable(name), to_string(tensor->type)));
  }
  std::vector<std::byte> stored(tensor->bytes);
  if (auto read = read_piece(name, 0, stored); !read) return fail(read.error());
  if (scales != nullptr) return state_->dequantise(*tensor, stored, *scales);
  std::vector<float> values(stored.size() / bytes_per_element(tensor->type));
  convert(tensor->type, stored.data(), dtype::f32, reinterpret_cast<std::byte*>(values.data()), values.size());
  return values;
}

result<std::vector<float>> checkpoint::state::dequantise(const tensor_info& weight, std::span<const std::byte> numbers,
                                                         const tensor_info& scales) const {
  const bool is_matrix = weight.shape.size() == 2 && weight.shape[1] <= std::numeric_limits<std::uint32_t>::max();
  if (!is_matrix || scales.shape != scales_shape(weight.shape[0], weight.shape[1], model.block) ||
      !is_scale_type(weight.type, scales.type)) {
    return fail(errc::invalid_request,
                fmt::format("tensor \"{}\" is no scale for each {} x {} weights of \"{}\"; restore the checkpoint",
                            printable(scales.name), model.block.outputs, model.block.inputs, printable(weight.name)));
  }
  std::vector<std::byte> scale_bytes(scales.bytes);
  if (auto read = files.shards[scales.file].read(scales.offset, scale_bytes); !read) return fail(read.error());
  const auto in = static_cast<std::uint32_t>(weight.shape[1]);
  const quantised_matrix matrix{.type = weight.type,
                                .numbers = numbers.data(),
                                .scale_type = scales.type,
                                .scales = scale_bytes.data(),
                                .in = in,
                                .block = model.block};
  std::vector<float> values(numbers.size());
  for (std::size_t o = 0; o < weight.shape[0]; ++o) dequantise_row(matrix, o, values.data() + o * in);
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
  std::vector<held_tensor> all;
  for (const auto& tensor : layout.tensors) {
    all.push_back({&tensor, bundle_bytes.data()});
    bundle_bytes = bundle_bytes.subspan(tensor.bytes);
  }
  // Scales first: a broken one breaks the weights of its block, and is what has to be named.
  const auto is_scales = [](const held_tensor& held) { return is_scale(held.tensor->role); };
  std::stable_partition(all.begin(), all.end(), is_scales);
  for (const auto& held : all) {
    if (const auto place = find_nonfinite(held, layout, all)) {
      return fail(errc::invalid_request,
                  fmt::format("expert {}: element {} of its piece of tensor \"{}\" is NaN or infinite; restore the "
                              "checkpoint, or start the cluster with --allow-nonfinite",
                              to_string(layout.id), *place, printable(held.tensor->name)));
    }
  }
  return {};
}

}  // namespace troupe::model
