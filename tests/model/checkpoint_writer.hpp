// Test checkpoints: folders that vanish, and small random models of any family in the files' own formats.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "model/safetensors.hpp"

namespace troupe::model::test {

// A new empty folder, removed with everything in it.
class temporary_folder {
 public:
  temporary_folder();
  ~temporary_folder();
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  void write(std::string_view name, std::string_view text) const;
  void write(std::string_view name, std::span<const std::byte> bytes) const;

 private:
  std::filesystem::path path_;
};

// Tensors that own their bytes, by name; random values of about one.
class tensor_set {
 public:
  struct entry {
    dtype type;
    std::vector<std::uint64_t> shape;
    std::vector<std::byte> bytes;
  };

  explicit tensor_set(std::uint64_t seed) : random_(seed) {}
  void add(const std::string& name, std::vector<std::uint64_t> shape, dtype type = dtype::f32);
  // Random bytes from `first` to `last`, for numbers that are no f32, f16 or bf16.
  void add_bytes(const std::string& name, std::vector<std::uint64_t> shape, dtype type, std::uint8_t first = 0,
                 std::uint8_t last = 255);
  void set(const std::string& name, const std::vector<float>& values);  // keeps shape and dtype
  void erase(const std::string& name) { entries_.erase(name); }
  [[nodiscard]] std::map<std::string, entry>& entries() { return entries_; }

  // The tensors for which `keep` holds, as one document.
  template <class Keep>
  [[nodiscard]] std::vector<std::byte> document(Keep keep) const {
    std::vector<named_tensor> tensors;
    for (const auto& [name, one] : entries_) {
      if (keep(name)) tensors.push_back({name, {one.type, one.shape, one.bytes}});
    }
    return write_safetensors(tensors, {{"format", "pt"}});
  }
  [[nodiscard]] std::vector<std::byte> document() const {
    return document([](const std::string&) { return true; });
  }
  // model-I.safetensors for I in 0..shards-1, tensors dealt out in turn, and the index.
  void write_shards(const temporary_folder& folder, std::size_t shards) const;

 private:
  std::mt19937_64 random_;
  std::map<std::string, entry> entries_;
};

}  // namespace troupe::model::test
