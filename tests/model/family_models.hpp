// Small random checkpoints of every family, odd sizes on purpose, for tests that break them one way or another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/checkpoint.hpp"
#include "tests/model/checkpoint_writer.hpp"

namespace troupe::model::test {

struct model_sizes {
  std::uint32_t hidden{11};
  std::uint32_t width{7};
  std::uint32_t experts{5};
  std::uint32_t top_k{3};
  std::uint32_t layers{3};
  dtype type{dtype::bf16};
};

struct family_model {
  nlohmann::json config;
  tensor_set tensors;

  // config.json and model.safetensors.
  void write(const temporary_folder& folder) const;
  [[nodiscard]] tensor_index index() const;  // as if all tensors stood in one file
};

// What checkpoint::open says; "" when it accepts the folder.
[[nodiscard]] std::string open_error(const std::filesystem::path& folder);
// Throws std::runtime_error with that message instead.
[[nodiscard]] checkpoint must_open(const std::filesystem::path& folder);

[[nodiscard]] const std::vector<std::string>& all_families();
// A family, or "deepseek_v3_fp8" (every linear layer but the gates, a scale per 4 x 3 weights), or "gpt_oss_mxfp4"
// (sizes should be multiples of 32).
[[nodiscard]] family_model make_model(const std::string& family, const model_sizes& sizes = {});

}  // namespace troupe::model::test
