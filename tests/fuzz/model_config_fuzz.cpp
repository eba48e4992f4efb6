// Any bytes as config.json, over the tensors of a small valid checkpoint. First byte: which family; its highest bit:
// the rest is a whole config.json, otherwise an object whose keys replace those of the valid one, which gets deeper.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/families/families.hpp"
#include "tests/model/family_models.hpp"

namespace {

using namespace troupe::model;

void require(bool holds) {
  if (!holds) std::abort();
}

struct valid_checkpoint {
  nlohmann::json config;
  tensor_index tensors;
  std::uint64_t file_bytes{};
};

const std::vector<valid_checkpoint>& valid_checkpoints() {
  static const auto all = [] {
    std::vector<valid_checkpoint> made;
    for (const auto& family : test::all_families()) {
      auto model = test::make_model(family, {.hidden = 3, .width = 2, .experts = 4, .top_k = 2, .layers = 2});
      made.push_back({model.config, model.index(), model.tensors.document().size()});
    }
    for (const auto* quantised : {"deepseek_v3_fp8", "gpt_oss_mxfp4"}) {
      auto model = test::make_model(quantised, {.hidden = 32, .width = 32, .experts = 4, .top_k = 2, .layers = 2});
      made.push_back({model.config, model.index(), model.tensors.document().size()});
    }
    return made;
  }();
  return all;
}

void require_consistent(const description& model, const valid_checkpoint& files) {
  require(!model.layers.empty());
  for (const auto& layer : model.layers) {
    require(layer.experts.size() == layer.gate.num_experts);
    require(layer.gate.top_k >= 1 && layer.gate.top_k <= layer.gate.num_experts);
    require(layer.gate.num_groups >= 1 && layer.gate.num_experts % layer.gate.num_groups == 0);
    for (const auto& expert : layer.experts) {
      require(model.find(expert.id) == &expert && expert.bytes() > 0);
      for (const auto& tensor : expert.tensors) {
        auto bytes = troupe::checked_bytes(tensor.type, tensor.shape);
        require(bytes && *bytes == tensor.bytes && tensor.offset + tensor.bytes <= files.file_bytes);
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto& files = valid_checkpoints()[(data[0] & 0x7fU) % valid_checkpoints().size()];
  std::string text{reinterpret_cast<const char*>(data) + 1, size - 1};
  if ((data[0] & 0x80U) == 0) {
    auto changes = nlohmann::json::parse(text, nullptr, false);
    if (!changes.is_object()) return 0;
    auto config = files.config;
    config.update(changes);
    text = config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  auto model = describe(text, files.tensors);
  if (model) {
    require_consistent(*model, files);
  } else {
    require(!model.error().message.empty());
  }
  return 0;
}
