// A safetensors file of the goldens in memory, and where the goldens are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/safetensors.hpp"

namespace troupe::model::test {

// A family, or a quantised checkpoint of one: "deepseek_v3_fp8".
[[nodiscard]] std::filesystem::path golden_folder(const std::string& family);

class golden_file {
 public:
  // Throws std::runtime_error when it cannot be read.
  explicit golden_file(const std::filesystem::path& path);

  [[nodiscard]] bool contains(const std::string& name) const { return tensors_.contains(name); }
  [[nodiscard]] std::vector<std::string> names() const;
  // std::out_of_range when there is no such tensor; std::runtime_error when it is of another type.
  [[nodiscard]] std::vector<float> floats(const std::string& name) const;
  [[nodiscard]] std::vector<std::int32_t> integers(const std::string& name) const;  // I32 or U8

 private:
  std::vector<std::byte> bytes_;
  std::map<std::string, tensor_info> tensors_;
};

}  // namespace troupe::model::test
