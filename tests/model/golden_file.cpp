#include "tests/model/golden_file.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace troupe::model::test {

std::filesystem::path golden_folder(const std::string& family) {
  const auto goldens = std::filesystem::path{TROUPE_SOURCE_DIR} / "tests/golden";
  const bool is_quantised = family.ends_with("_fp8") || family.ends_with("_mxfp4");
  return goldens / (is_quantised ? "quantised" : "dev") / family;
}

golden_file::golden_file(const std::filesystem::path& path) {
  std::ifstream stream{path, std::ios::binary};
  std::string text{std::istreambuf_iterator<char>{stream}, {}};
  bytes_.resize(text.size());
  std::memcpy(bytes_.data(), text.data(), text.size());
  auto header = parse_safetensors(bytes_, bytes_.size());
  if (!header) throw std::runtime_error(path.string() + ": " + header.error().message);
  for (auto& tensor : header->tensors) tensors_.emplace(tensor.name, tensor);
}

std::vector<std::string> golden_file::names() const {
  std::vector<std::string> all;
  for (const auto& [name, tensor] : tensors_) all.push_back(name);
  return all;
}

std::vector<float> golden_file::floats(const std::string& name) const {
  const auto& tensor = tensors_.at(name);
  if (tensor.type != dtype::f32) throw std::runtime_error(name + " is not F32");
  std::vector<float> values(tensor.bytes / sizeof(float));
  std::memcpy(values.data(), bytes_.data() + tensor.offset, tensor.bytes);
  return values;
}

std::vector<std::int32_t> golden_file::integers(const std::string& name) const {
  const auto& tensor = tensors_.at(name);
  const auto* begin = bytes_.data() + tensor.offset;
  if (tensor.type == dtype::u8) {
    std::vector<std::int32_t> values;
    for (std::size_t i = 0; i < tensor.bytes; ++i) values.push_back(std::to_integer<std::int32_t>(begin[i]));
    return values;
  }
  if (tensor.type != dtype::i32) throw std::runtime_error(name + " is neither I32 nor U8");
  std::vector<std::int32_t> values(tensor.bytes / sizeof(std::int32_t));
  std::memcpy(values.data(), begin, tensor.bytes);
  return values;
}

}  // namespace troupe::model::test
