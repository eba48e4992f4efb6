// A Hugging Face checkpoint folder, opened strictly: config.json, model.safetensors or shards with an index.
// Everything is read by position and nothing is mapped: bytes never count as resident twice, and a file that is
// truncated meanwhile gives an error, not SIGBUS. Const methods may be called from any thread. Refuses what faults.md
// C1-C3, C6, C14, C15 name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "model/description.hpp"
#include "model/gating.hpp"
#include "model/safetensors.hpp"
#include "model/trunk_description.hpp"

namespace troupe::model {

class checkpoint {
 public:
  // Errors list everything that is wrong at once (all missing shards and tensors), as "expected / found".
  [[nodiscard]] static result<checkpoint> open(const std::filesystem::path& folder);

  checkpoint(checkpoint&&) noexcept;
  checkpoint& operator=(checkpoint&&) noexcept;
  ~checkpoint();

  [[nodiscard]] const description& model() const;
  // Everything but the experts. invalid_request, with all that is wrong, for families without a known trunk, for what
  // the trunk does not support, and for tensors that are missing or misshapen.
  [[nodiscard]] result<trunk_description> trunk() const;
  [[nodiscard]] const std::filesystem::path& folder() const;
  [[nodiscard]] const std::vector<std::filesystem::path>& files() const;

  // nullptr when no shard holds it.
  [[nodiscard]] const tensor_info* find_tensor(const std::string& name) const;
  [[nodiscard]] const tensor_index& tensors() const;
  [[nodiscard]] const std::string& config_text() const;  // of config.json
  // The tensor's stored bytes from `begin` on. @pre the tensor exists and the piece lies inside it. corrupt on a short
  // read.
  [[nodiscard]] result<void> read_piece(const std::string& name, std::uint64_t begin,
                                        std::span<std::byte> target) const;
  // A whole tensor converted to f32, fp8 with its scales; for gates, biases and shared experts. not_found names the
  // tensor.
  [[nodiscard]] result<std::vector<float>> read_f32(const std::string& name) const;

  // The parameters of one layer's gate; biases that the family has not stay empty.
  // invalid_request when one of them is not finite.
  [[nodiscard]] result<gate_parameters> read_gate(const gating& gate) const;

  // Reads all bytes of one bundle, in the layout's order, into `target`. @pre target.size() == layout.bytes()
  // Their page cache is given back afterwards. corrupt on a short read.
  [[nodiscard]] result<void> read_bundle(const bundle_layout& layout, std::span<std::byte> target) const;

 private:
  struct state;
  explicit checkpoint(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

// SHA-256 over a bundle's bytes as they stand in the checkpoint, in the layout's order.
[[nodiscard]] sha256_digest digest_of(std::span<const std::byte> bundle_bytes);
[[nodiscard]] std::string to_hex(const sha256_digest& digest);
[[nodiscard]] std::optional<sha256_digest> parse_digest(std::string_view hex);  // nullopt: not 64 hex digits

// First NaN or infinity among the bundle's scales, weights (with their scales) and biases: invalid_request naming
// tensor and element (faults.md C5). @pre quantised weights have their scales in the layout
[[nodiscard]] result<void> check_finite(const bundle_layout& layout, std::span<const std::byte> bundle_bytes);

}  // namespace troupe::model
