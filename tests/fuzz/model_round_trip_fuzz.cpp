// Any tensors and metadata, written and read again: nothing is lost and everything is aligned.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "model/safetensors.hpp"

namespace {

using namespace troupe;

void require(bool holds) {
  if (!holds) std::abort();
}

struct owned_tensor {
  dtype type{};
  std::vector<std::uint64_t> shape;
  std::vector<std::byte> bytes;
};

owned_tensor consume_tensor(FuzzedDataProvider& input) {
  owned_tensor tensor;
  tensor.type = static_cast<dtype>(input.ConsumeIntegralInRange<int>(1, 15));
  auto rank = input.ConsumeIntegralInRange<std::size_t>(0, 4);
  for (std::size_t i = 0; i < rank; ++i) tensor.shape.push_back(input.ConsumeIntegralInRange<std::uint64_t>(0, 5));
  tensor.bytes.resize(checked_bytes(tensor.type, tensor.shape).value(),
                      static_cast<std::byte>(input.ConsumeIntegral<std::uint8_t>()));
  return tensor;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input{data, size};
  std::map<std::string, owned_tensor> tensors;
  std::map<std::string, std::string> metadata;
  while (input.remaining_bytes() > 0) {
    std::string key;  // ASCII: the writer replaces what is not UTF-8
    for (char c : input.ConsumeRandomLengthString(12)) key += static_cast<char>(c & 0x7f);
    if (input.ConsumeBool()) {
      metadata[key] = std::to_string(input.ConsumeIntegral<int>());
    } else if (key != "__metadata__") {
      tensors[key] = consume_tensor(input);
    }
  }
  std::vector<model::named_tensor> views;
  for (const auto& [name, tensor] : tensors) views.push_back({name, {tensor.type, tensor.shape, tensor.bytes}});
  auto document = model::write_safetensors(views, metadata);
  auto header = model::parse_safetensors(document, document.size());
  require(header && header->metadata == metadata && header->tensors.size() == tensors.size());
  for (const auto& read : header->tensors) {
    const auto& written = tensors.at(read.name);
    require(read.type == written.type && read.shape == written.shape &&
            read.offset % bytes_per_element(read.type) == 0);
    require(std::ranges::equal(std::span{document}.subspan(read.offset, read.bytes), written.bytes));
  }
  return 0;
}
