// config.json and the tensors of a checkpoint -> what its MoE layers look like. Pure; any thread.
#pragma once

#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "model/description.hpp"
#include "model/safetensors.hpp"

namespace troupe::model {

// The values of `model_type` that are known, sorted.
[[nodiscard]] std::vector<std::string_view> known_families();

// invalid_request with a table "where, expected, found" of everything that is wrong (faults.md C6). `name` and
// `fingerprint` of the result are empty.
[[nodiscard]] result<description> describe(std::string_view config_json, const tensor_index& tensors);

}  // namespace troupe::model
