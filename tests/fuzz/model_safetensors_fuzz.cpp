// Any bytes as a safetensors file: the parser refuses them, or what it says about them is true.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "common/limits.hpp"
#include "model/safetensors.hpp"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto bytes = std::as_bytes(std::span{data, size});
  auto head_bytes = troupe::model::safetensors_head_bytes(bytes, size);
  auto header = troupe::model::parse_safetensors(bytes, size);
  if (!header) {
    require(!header.error().message.empty());
    return 0;
  }
  require(head_bytes && header->data_begin == *head_bytes);
  auto covered = header->data_begin;
  for (const auto& tensor : header->tensors) {
    require(tensor.offset == covered);
    auto expected = troupe::checked_bytes(tensor.type, tensor.shape);
    require(expected && *expected == tensor.bytes);
    covered += tensor.bytes;
  }
  require(covered == size);
  return 0;
}
