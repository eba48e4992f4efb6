// What each family's config.json means: defaults of missing keys, which blocks are MoE layers, and what is refused.
#include "model/families/families.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

description must_describe(const family_model& model) {
  auto described = describe(model.config.dump(), model.index());
  if (!described) throw std::runtime_error(described.error().message);
  return std::move(*described);
}

std::string refusal(const family_model& model) {
  auto described = describe(model.config.dump(), model.index());
  return described ? "accepted" : described.error().message;
}

std::vector<std::string> layer_names(const description& model) {
  std::vector<std::string> names;
  for (const auto& layer : model.layers) names.push_back(to_string(layer.id));
  return names;
}

// An index that claims any tensor a test adds, without bytes: for models of published size.
class claimed_tensors {
 public:
  void add(const std::string& name, std::vector<std::uint64_t> shape, dtype type = dtype::bf16) {
    auto bytes = checked_bytes(type, shape);
    index_[name] = {name, type, std::move(shape), 0, 0, bytes.value()};
  }
  [[nodiscard]] const tensor_index& index() const { return index_; }

 private:
  tensor_index index_;
};

TEST(families, are_nine) { EXPECT_EQ(known_families().size(), all_families().size()); }

TEST(families, bad_config_files_are_refused_c6) {
  auto message = [](std::string_view text) { return describe(text, {}).error().message; };
  EXPECT_THAT(message(""), HasSubstr("config.json: not valid JSON"));
  EXPECT_THAT(message("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(message("{}"), AllOf(HasSubstr("no model_type"), HasSubstr("deepseek_v3")));
  EXPECT_THAT(message(R"({"model_type": 3})"), HasSubstr("no model_type"));
  EXPECT_THAT(message(R"({"a": 1, "a": 2})"), HasSubstr("duplicate key \"a\""));
  EXPECT_THAT(message("{\"a\": " + std::string(100'000, '[')), HasSubstr("deeper than 64"));
  EXPECT_THAT(message(std::string(5'000'000, ' ')), HasSubstr("5000000 bytes"));
}

TEST(families, every_bad_key_is_listed_at_once_c6) {
  auto model = make_model("mixtral");
  model.config.update(
      {{"hidden_size", "wide"}, {"num_hidden_layers", -3}, {"num_local_experts", 8.5}, {"hidden_act", "gelu"}});
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("4 problems"), HasSubstr("hidden_size"), HasSubstr("\"wide\""),
                                    HasSubstr("-3"), HasSubstr("8.5"), HasSubstr("silu"), HasSubstr("\"gelu\"")));
}

TEST(families, methods_of_quantising_that_are_not_read_are_refused_by_name) {
  for (auto [family, method] :
       {std::pair{"gpt_oss", "fp8"}, {"deepseek_v3", "mxfp4"}, {"mixtral", "awq"}, {"switch_transformers", "fp8"}}) {
    auto model = make_model(family);
    model.config["quantization_config"] = {{"quant_method", method}};
    EXPECT_THAT(refusal(model), AllOf(HasSubstr(method), HasSubstr("convert the checkpoint to BF16")));
    model.config["quantization_config"] = nlohmann::json::object();
    EXPECT_THAT(refusal(model), HasSubstr("an unnamed method"));
    model.config["quantization_config"] = "fp8";
    EXPECT_THAT(refusal(model), HasSubstr("quantization_config"));
    model.config["quantization_config"] = nullptr;
    EXPECT_EQ(refusal(model), "accepted");
  }
}

TEST(families, top_k_may_be_all_experts_but_not_more) {
  for (const auto& family : all_families()) {
    if (family == "switch_transformers") continue;  // always top-1
    EXPECT_EQ(refusal(make_model(family, {.experts = 3, .top_k = 3})), "accepted") << family;
    EXPECT_THAT(refusal(make_model(family, {.experts = 3, .top_k = 4})), HasSubstr("at most")) << family;
  }
}

TEST(families, a_model_without_moe_layers_is_refused) {
  auto model = make_model("qwen3_moe");
  model.config["mlp_only_layers"] = {0, 1, 2};
  EXPECT_THAT(refusal(model), HasSubstr("every block is dense"));
}

TEST(mixtral, gates_with_renormalised_softmax) {
  auto gate = must_describe(make_model("mixtral")).layers[0].gate;
  EXPECT_EQ(gate.score, score_function::softmax);
  EXPECT_EQ(gate.renorm, renormalise::always);
  EXPECT_EQ(gate.capacity.order, fill_order::none);
  EXPECT_EQ(gate.groups, group_score::none);
  EXPECT_EQ(gate.scale, 1.0);
}

TEST(mixtral, missing_keys_mean_the_published_8x7b) {
  claimed_tensors tensors;
  for (int block = 0; block < 32; ++block) {
    auto prefix = fmt::format("model.layers.{}.block_sparse_moe", block);
    tensors.add(prefix + ".gate.weight", {8, 4096});
    for (int e = 0; e < 8; ++e) {
      tensors.add(fmt::format("{}.experts.{}.w1.weight", prefix, e), {14336, 4096});
      tensors.add(fmt::format("{}.experts.{}.w3.weight", prefix, e), {14336, 4096});
      tensors.add(fmt::format("{}.experts.{}.w2.weight", prefix, e), {4096, 14336});
    }
  }
  auto model = describe(R"({"model_type": "mixtral"})", tensors.index());
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->layers.size(), 32U);
  EXPECT_EQ(model->layers[0].gate.top_k, 2U);
  EXPECT_EQ(model->bundle_bytes(), std::uint64_t{32} * 8 * 3 * 14336 * 4096 * 2);
}

TEST(qwen, renormalises_only_when_the_config_says_so) {
  for (auto family : {"qwen2_moe", "qwen3_moe", "olmoe"}) {
    auto model = make_model(family);
    EXPECT_EQ(must_describe(model).layers[0].gate.renorm, renormalise::never) << family;
    model.config["norm_topk_prob"] = true;
    EXPECT_EQ(must_describe(model).layers[0].gate.renorm, renormalise::always) << family;
    model.config["norm_topk_prob"] = "yes";
    EXPECT_THAT(refusal(model), AllOf(HasSubstr("norm_topk_prob"), HasSubstr("true or false"))) << family;
  }
}

TEST(qwen, dense_blocks_follow_the_step_and_the_list) {
  auto model = make_model("qwen3_moe", {.layers = 6});
  model.config["decoder_sparse_step"] = 2;
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("1", "3", "5"));
  model.config["mlp_only_layers"] = {3, 4};
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("1", "5"));
  model.config["decoder_sparse_step"] = 1;
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("0", "1", "2", "5"));
  model.config["mlp_only_layers"] = nullptr;
  EXPECT_EQ(must_describe(model).layers.size(), 6U);
  model.config["mlp_only_layers"] = "none";
  model.config["decoder_sparse_step"] = 0;
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("2 problems"), HasSubstr("a list of block numbers")));
}

TEST(qwen2_moe, has_a_shared_expert_behind_a_sigmoid) {
  auto model = make_model("qwen2_moe");
  auto layer = must_describe(model).layers[1];
  ASSERT_TRUE(layer.shared);
  EXPECT_EQ(layer.shared->width, 13U);
  EXPECT_EQ(layer.shared->sigmoid_gate, "model.layers.1.mlp.shared_expert_gate.weight");
  model.config["shared_expert_intermediate_size"] = 12;
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("shared_expert.up_proj"), HasSubstr("[12, 11]"), HasSubstr("[13, 11] BF16")));
  model.tensors.erase("model.layers.2.mlp.shared_expert_gate.weight");
  EXPECT_THAT(refusal(model), HasSubstr("model.layers.2.mlp.shared_expert_gate.weight"));
  EXPECT_FALSE(must_describe(make_model("qwen3_moe")).layers[0].shared);
}

TEST(deepseek_v2, is_greedy_without_groups_and_never_renormalises) {
  auto model = make_model("deepseek_v2");
  model.config.update({{"norm_topk_prob", true}, {"routed_scaling_factor", 16}, {"n_group", nullptr}});
  auto layer = must_describe(model).layers[0];
  EXPECT_EQ(to_string(layer.id), "1");
  EXPECT_EQ(layer.gate.groups, group_score::none);
  EXPECT_EQ(layer.gate.renorm, renormalise::never);
  EXPECT_EQ(layer.gate.scale, 16.0);
  ASSERT_TRUE(layer.shared);
  EXPECT_EQ(layer.shared->width, 14U);
  EXPECT_EQ(layer.shared->sigmoid_gate, "");
}

TEST(deepseek_v2, groups_need_both_counts_and_must_hold_top_k) {
  auto model = make_model("deepseek_v2", {.experts = 6, .top_k = 2});
  model.config["topk_method"] = "group_limited_greedy";
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("n_group"), HasSubstr("topk_group"), HasSubstr("missing")));
  model.config.update({{"n_group", 3}, {"topk_group", 1}});
  auto gate = must_describe(model).layers[0].gate;
  EXPECT_EQ(gate.groups, group_score::max);
  EXPECT_EQ(gate.num_groups, 3U);
  EXPECT_EQ(gate.top_k_groups, 1U);
  model.config["num_experts_per_tok"] = 3;
  EXPECT_THAT(refusal(model), HasSubstr("at most 2, the experts of 1 groups"));
  model.config["n_group"] = 4;
  EXPECT_THAT(refusal(model), HasSubstr("a divisor of the 6 experts"));
  model.config["n_group"] = 2;
  model.config["topk_group"] = 3;
  EXPECT_THAT(refusal(model), HasSubstr("at most n_group, 2"));
}

TEST(deepseek_v2, what_it_cannot_compute_is_refused) {
  for (auto [key, value] : {std::pair<const char*, nlohmann::json>{"topk_method", "noaux_tc"},
                            {"scoring_func", "sigmoid"},
                            {"mlp_bias", true},
                            {"hidden_act", "relu"},
                            {"num_experts_per_tok", nullptr}}) {
    auto model = make_model("deepseek_v2");
    model.config[key] = value;
    EXPECT_THAT(refusal(model), AllOf(HasSubstr("1 problem"), HasSubstr(key))) << key;
  }
}

TEST(deepseek_v3, scores_by_sigmoid_and_a_correction_bias) {
  auto gate = must_describe(make_model("deepseek_v3")).layers[1].gate;
  EXPECT_EQ(gate.score, score_function::sigmoid);
  EXPECT_EQ(gate.groups, group_score::sum_of_two_largest);
  EXPECT_EQ(gate.renorm, renormalise::always);
  EXPECT_EQ(gate.renorm_epsilon, 1e-20);
  EXPECT_EQ(gate.scale, 2.5);
  EXPECT_EQ(gate.correction_bias, "model.layers.2.mlp.gate.e_score_correction_bias");
}

TEST(deepseek_v3, the_layer_for_predicting_ahead_is_ignored) {
  auto model = make_model("deepseek_v3", {.layers = 4});
  model.config["num_hidden_layers"] = 3;
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("1", "2"));
}

TEST(deepseek_v3, a_missing_correction_bias_and_wrong_functions_are_refused) {
  auto model = make_model("deepseek_v3");
  model.tensors.erase("model.layers.2.mlp.gate.e_score_correction_bias");
  EXPECT_THAT(refusal(model), HasSubstr("model.layers.2.mlp.gate.e_score_correction_bias"));
  model = make_model("deepseek_v3");
  model.config["scoring_func"] = "softmax";
  EXPECT_THAT(refusal(model), HasSubstr("sigmoid"));
}

TEST(deepseek_v3, default_groups_are_eight_of_which_four) {
  auto model = make_model("deepseek_v3", {.experts = 16});
  model.config.erase("n_group");
  model.config.erase("topk_group");
  auto gate = must_describe(model).layers[0].gate;
  EXPECT_EQ(gate.num_groups, 8U);
  EXPECT_EQ(gate.top_k_groups, 4U);
}

TEST(deepseek, shared_experts_may_be_absent) {
  for (auto none : {nlohmann::json(nullptr), nlohmann::json(0)}) {
    auto model = make_model("deepseek_v2");
    model.config["n_shared_experts"] = none;
    EXPECT_FALSE(must_describe(model).layers[0].shared);
  }
}

TEST(deepseek, the_files_tell_which_blocks_between_are_dense) {
  auto model = make_model("deepseek_v2", {.layers = 5});
  model.config["moe_layer_freq"] = 2;
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("1", "2", "3", "4"));  // as transformers writes it
  model.tensors.erase("model.layers.1.mlp.gate.weight");
  model.tensors.erase("model.layers.3.mlp.gate.weight");
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("2", "4"));
  model.tensors.erase("model.layers.2.mlp.gate.weight");
  EXPECT_THAT(refusal(model), HasSubstr("model.layers.2.mlp.gate.weight"));
}

TEST(gpt_oss, cuts_transposed_pieces_out_of_packed_tensors) {
  auto model = make_model("gpt_oss");
  auto index = model.index();
  auto layer = must_describe(model).layers[1];
  EXPECT_EQ(layer.gate.score, score_function::softmax_of_top_k);
  EXPECT_EQ(layer.gate.bias, "model.layers.1.mlp.router.bias");
  EXPECT_EQ(layer.shape.act, activation::clamped_glu);
  EXPECT_TRUE(layer.shape.has_bias);
  const auto& pieces = layer.experts[3].tensors;
  ASSERT_EQ(pieces.size(), 4U);
  EXPECT_EQ(pieces[0].role, tensor_role::gate_up);
  EXPECT_TRUE(pieces[0].transposed);
  EXPECT_THAT(pieces[0].shape, ElementsAre(11, 14));
  EXPECT_EQ(pieces[0].bytes, 11U * 14 * 2);
  EXPECT_EQ(pieces[0].offset, index.at("model.layers.1.mlp.experts.gate_up_proj").offset + 3U * 11 * 14 * 2);
  EXPECT_EQ(pieces[1].role, tensor_role::gate_up_bias);
  EXPECT_THAT(pieces[1].shape, ElementsAre(14));
  EXPECT_EQ(pieces[2].role, tensor_role::down);
  EXPECT_THAT(pieces[2].shape, ElementsAre(7, 11));
  EXPECT_EQ(pieces[3].role, tensor_role::down_bias);
}

TEST(switch_transformers, sparse_blocks_follow_the_step_of_each_stack) {
  auto layers = must_describe(make_model("switch_transformers")).layers;
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(to_string(layers[0].id), "encoder.1");
  EXPECT_EQ(to_string(layers[1].id), "decoder.1");
  EXPECT_EQ(layers[0].gate.top_k, 1U);
  EXPECT_EQ(layers[0].gate.renorm, renormalise::never);
  EXPECT_EQ(layers[0].gate.capacity.order, fill_order::token);
  EXPECT_EQ(layers[0].gate.capacity.fixed, 4U);
  EXPECT_EQ(layers[0].shape.act, activation::relu);
  EXPECT_FALSE(layers[0].shape.has_bias);
  EXPECT_EQ(layers[1].gate.weight, "decoder.block.1.layer.2.mlp.router.classifier.weight");
}

TEST(switch_transformers, steps_of_one_and_written_steps_are_followed) {
  auto model = make_model("switch_transformers");
  model.config["num_sparse_decoder_layers"] = 2;  // step 1: block 0 has experts too
  EXPECT_THAT(refusal(model), HasSubstr("decoder.block.0.layer.2.mlp.experts.expert_*"));
  model.config["decoder_sparse_step"] = 2;
  EXPECT_EQ(refusal(model), "accepted");
  model.config["encoder_sparse_step"] = 0;
  EXPECT_THAT(layer_names(must_describe(model)), ElementsAre("decoder.1"));
}

TEST(switch_transformers, zero_sparse_layers_still_leave_block_one_sparse_as_in_the_reference) {
  auto model = make_model("switch_transformers");
  model.config["num_sparse_encoder_layers"] = 0;
  EXPECT_EQ(layer_names(must_describe(model)).front(), "encoder.1");
}

TEST(switch_transformers, the_decoder_has_as_many_blocks_as_the_encoder_when_null) {
  auto model = make_model("switch_transformers");
  model.config.update({{"num_decoder_layers", nullptr}, {"num_sparse_decoder_layers", 3}});
  EXPECT_THAT(refusal(model), HasSubstr("decoder.block.2.layer.2.mlp.router.classifier.weight"));
}

TEST(switch_transformers, router_bias_activation_and_dtype_come_from_the_config) {
  auto model = make_model("switch_transformers");
  model.config["router_bias"] = true;
  EXPECT_THAT(refusal(model), HasSubstr("encoder.block.1.layer.1.mlp.router.classifier.bias"));
  model.tensors.add("encoder.block.1.layer.1.mlp.router.classifier.bias", {5});
  model.tensors.add("decoder.block.1.layer.2.mlp.router.classifier.bias", {5});
  EXPECT_EQ(must_describe(model).layers[1].gate.bias, "decoder.block.1.layer.2.mlp.router.classifier.bias");
  model.config["dense_act_fn"] = "gelu";
  EXPECT_EQ(must_describe(model).layers[0].shape.act, activation::gelu_erf);
  model.config["dense_act_fn"] = "gelu_new";
  EXPECT_EQ(must_describe(model).layers[0].shape.act, activation::gelu_tanh);
  model.config.update({{"dense_act_fn", "tanh"}, {"router_dtype", "bfloat16"}});
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("2 problems"), HasSubstr("relu"), HasSubstr("float32")));
  model.config.erase("expert_capacity");
  model.config.update({{"dense_act_fn", "relu"}, {"router_dtype", "float32"}});
  EXPECT_EQ(must_describe(model).layers[0].gate.capacity.fixed, 64U);
}

TEST(vmoe, capacity_order_and_activation_come_from_the_config) {
  auto model = make_model("vmoe");
  auto layer = must_describe(model).layers[0];
  EXPECT_EQ(layer.gate.capacity.fixed, 2U);
  EXPECT_EQ(layer.gate.capacity.order, fill_order::token);
  EXPECT_EQ(layer.shape.act, activation::gelu_erf);
  EXPECT_TRUE(layer.shape.has_bias);
  model.config.update(
      {{"capacity", nullptr}, {"capacity_factor", 1.5}, {"batch_priority", true}, {"hidden_act", "gelu_tanh"}});
  layer = must_describe(model).layers[0];
  EXPECT_EQ(layer.gate.capacity.fixed, std::nullopt);
  EXPECT_EQ(layer.gate.capacity.factor, 1.5);
  EXPECT_EQ(layer.gate.capacity.order, fill_order::batch_priority);
  EXPECT_EQ(layer.shape.act, activation::gelu_tanh);
}

TEST(vmoe, a_missing_capacity_and_missing_sizes_are_listed_at_once) {
  auto model = make_model("vmoe");
  model.config = {{"model_type", "vmoe"}};
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("5 problems"), HasSubstr("hidden_size"), HasSubstr("intermediate_size"),
                    HasSubstr("num_experts"), HasSubstr("num_selected_experts"), HasSubstr("capacity_factor above 0")));
}

}  // namespace
}  // namespace troupe::model::test
