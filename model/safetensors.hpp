// Strict reader of the safetensors format (8-byte little-endian header length, JSON header, data without holes).
// Also the codec of the HTTP layer bodies. Pure functions over bytes; no files here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/tensor.hpp"

namespace troupe::model {

struct tensor_info {
  std::string name;
  dtype type{dtype::f32};
  std::vector<std::uint64_t> shape;
  std::uint32_t file{};    // index of the shard; 0 for a single file
  std::uint64_t offset{};  // absolute: from the first byte of the file
  std::uint64_t bytes{};
};

struct safetensors_header {
  std::vector<tensor_info> tensors;             // ordered by offset
  std::map<std::string, std::string> metadata;  // __metadata__
  std::uint64_t data_begin{};                   // first byte behind the header
};

// All tensors of a checkpoint, whatever shard they are in.
using tensor_index = std::map<std::string, tensor_info, std::less<>>;

// How many bytes from the file's first one `parse_safetensors` needs: 8 + header length, read from the first 8.
// invalid_request when the length lies beyond the file or the limit.
[[nodiscard]] result<std::uint64_t> safetensors_head_bytes(std::span<const std::byte> first_bytes,
                                                           std::uint64_t file_bytes);

// `head`: the file's first bytes, at least 8 + header length of them; `file_bytes`: the size of the whole file.
// Refuses: length beyond the file or 100,000,000; not '{'; duplicate keys; unknown dtype; overlap, hole or end beyond
// the file; shape x dtype != bytes; overflow; invalid UTF-8; depth. Errors name the tensor and the numbers.
[[nodiscard]] result<safetensors_header> parse_safetensors(std::span<const std::byte> head, std::uint64_t file_bytes);

struct named_tensor {
  std::string name;
  tensor_view tensor;
};

// A complete safetensors document. The format allows no gaps, so the data stands by decreasing element size: every
// tensor is then aligned to its own elements. @pre bytes match shape and dtype; names are unique and not
// "__metadata__".
[[nodiscard]] std::vector<std::byte> write_safetensors(std::span<const named_tensor> tensors,
                                                       const std::map<std::string, std::string>& metadata);

}  // namespace troupe::model
