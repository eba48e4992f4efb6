#include "tests/model/checkpoint_writer.hpp"

#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace troupe::model::test {

temporary_folder::temporary_folder() {
  auto pattern = (std::filesystem::temp_directory_path() / "troupe-model-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a folder like " + pattern);
  path_ = std::filesystem::canonical(pattern);
}

temporary_folder::~temporary_folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void temporary_folder::write(std::string_view name, std::string_view text) const {
  std::filesystem::create_directories((path_ / name).parent_path());
  std::ofstream stream{path_ / name, std::ios::binary | std::ios::trunc};
  stream.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!stream.flush()) throw std::runtime_error("cannot write " + (path_ / name).string());
}

void temporary_folder::write(std::string_view name, std::span<const std::byte> bytes) const {
  write(name, std::string_view{reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

void tensor_set::add(const std::string& name, std::vector<std::uint64_t> shape, dtype type) {
  std::size_t count = 1;
  for (auto extent : shape) count *= extent;
  std::normal_distribution<float> normal{0.0F, 0.5F};
  std::vector<float> values(count);
  for (float& value : values) value = normal(random_);
  entries_[name] = {type, std::move(shape), {}};
  set(name, values);
}

void tensor_set::add_bytes(const std::string& name, std::vector<std::uint64_t> shape, dtype type, std::uint8_t first,
                           std::uint8_t last) {
  std::size_t count = bytes_per_element(type);
  for (auto extent : shape) count *= extent;
  std::uniform_int_distribution<unsigned> any{first, last};
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(any(random_));
  entries_[name] = {type, std::move(shape), std::move(bytes)};
}

void tensor_set::set(const std::string& name, const std::vector<float>& values) {
  auto& one = entries_.at(name);
  one.bytes.resize(values.size() * bytes_per_element(one.type));
  bool is_float = one.type == dtype::f32 || one.type == dtype::f16 || one.type == dtype::bf16;
  if (is_float)
    convert(dtype::f32, reinterpret_cast<const std::byte*>(values.data()), one.type, one.bytes.data(), values.size());
}

void tensor_set::write_shards(const temporary_folder& folder, std::size_t shards) const {
  nlohmann::json map = nlohmann::json::object();
  std::size_t turn = 0;
  for (const auto& [name, one] : entries_) map[name] = fmt::format("model-{}.safetensors", turn++ % shards);
  for (std::size_t i = 0; i < shards; ++i) {
    auto file = fmt::format("model-{}.safetensors", i);
    folder.write(file, document([&](const std::string& name) { return map[name] == file; }));
  }
  folder.write("model.safetensors.index.json",
               nlohmann::json{{"metadata", {{"total_size", 0}}}, {"weight_map", map}}.dump());
}

}  // namespace troupe::model::test
