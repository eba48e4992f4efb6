// The tensors of a checkpoint with what config.json says about how its matrices are quantised, and the checks of both
// that families make. What is wrong goes to the problem list.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "common/error.hpp"
#include "model/description.hpp"
#include "model/problem_list.hpp"
#include "model/quantised.hpp"
#include "model/safetensors.hpp"

namespace troupe::model {

enum class quant_method : std::uint8_t { none, fp8, mxfp4 };

struct quantisation {
  quant_method method{quant_method::none};
  scale_block block{};
};

// What `quantization_config` says; none without that key. invalid_request for every method but `supported`, and for
// fp8 without `weight_block_size`.
[[nodiscard]] result<quantisation> read_quantisation(const nlohmann::json& config, quant_method supported);

// Refers to the index, which outlives it.
struct stored_tensors {
  const tensor_index& index;
  quantisation quantised;
};

// What a tensor's elements may be, in words and as a test.
struct element_rule {
  std::string_view text;
  bool (*accepts)(dtype);
};
inline constexpr element_rule plain_elements{"F32, F16 or BF16", is_plain};
inline constexpr element_rule mxfp4_elements{"U8", [](dtype type) { return type == dtype::u8; }};
inline constexpr element_rule mxfp4_scales{"U8 or F8_E8M0", [](dtype type) { return is_scale_type(dtype::u8, type); }};

// nullptr, and a problem, when there is no such tensor, its shape is another, or its elements are of another type.
const tensor_info* require_tensor(const stored_tensors& tensors, problem_list& problems, const std::string& name,
                                  const std::vector<std::uint64_t>& shape, const element_rule& rule = plain_elements);

// A matrix [out, in]: plain or, in a checkpoint that says so, fp8 with its scales beside it.
const tensor_info* require_weight(const stored_tensors& tensors, problem_list& problems, const std::string& name,
                                  std::uint64_t out, std::uint64_t in);

}  // namespace troupe::model
