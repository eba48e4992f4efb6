// POST /v1/layers/{layer} and GET /v1/models, through a running router with fake hosts.
#include <cstring>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/probes.hpp"
#include "common/http/server.hpp"
#include "model/safetensors.hpp"
#include "tests/common/http_client.hpp"
#include "tests/router_node/router_fixture.hpp"

namespace troupe::router::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using troupe::testing::http_answer;
using troupe::testing::http_client;

class layer_over_http : public router_test {
 protected:
  void serve(const std::string& family = "mixtral") {
    start(family);
    add_host("expert-0");
    publish({{"expert-0"}});
    await_links(1);
    server_ = must(http::server::start({}, layer_routes(plan_, checkpoint_->model(), *loop_, 0, {}, 0,
                                                        [this] { return loop_->health().masked.load(); })));
    http_ = std::make_unique<http_client>(server_->port());
  }
  ~layer_over_http() override { server_.reset(); }

  [[nodiscard]] std::string body_of(const std::vector<float>& rows, dtype type = dtype::f32,
                                    const std::map<std::string, std::string>& metadata = {},
                                    const std::string& name = "hidden") const {
    std::vector<std::byte> bytes(rows.size() * bytes_per_element(type));
    convert(dtype::f32, reinterpret_cast<const std::byte*>(rows.data()), type, bytes.data(), rows.size());
    const std::vector<model::named_tensor> tensors{
        {name, {type, {rows.size() / layer().hidden, layer().hidden}, bytes}}};
    const auto document = model::write_safetensors(tensors, metadata);
    return {reinterpret_cast<const char*>(document.data()), document.size()};
  }

  http_answer post(const std::string& body, const std::string& path_layer) {
    return http_->call("POST", "/v1/layers/" + path_layer, body, "Content-Type: application/vnd.safetensors\r\n");
  }
  http_answer post(const std::string& body) { return post(body, layer_name()); }

  std::unique_ptr<http::server> server_;
  std::unique_ptr<http_client> http_;
};

TEST_F(layer_over_http, answers_with_five_tensors_and_the_epoch) {
  serve("qwen2_moe");
  for (const auto type : {dtype::f32, dtype::bf16, dtype::f16}) {
    const auto answer = post(body_of(make_rows(3), type));
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.field("Content-Type"), "application/vnd.safetensors");
    const auto bytes = std::as_bytes(std::span(answer.body));
    const auto header = must(model::parse_safetensors(bytes, bytes.size()));
    EXPECT_EQ(header.metadata.at("epoch"), "1");
    std::map<std::string, model::tensor_info> tensors;
    for (const auto& tensor : header.tensors) tensors[tensor.name] = tensor;
    const std::vector<std::uint64_t> rows{3, layer().hidden};
    const std::vector<std::uint64_t> choice{3, layer().top_k};
    EXPECT_EQ(tensors.at("output").type, type);
    EXPECT_EQ(tensors.at("output").shape, rows);
    EXPECT_EQ(tensors.at("routed_output").type, type);
    EXPECT_EQ(tensors.at("expert_ids").type, dtype::i32);
    EXPECT_EQ(tensors.at("expert_ids").shape, choice);
    EXPECT_EQ(tensors.at("expert_weights").type, dtype::f32);
    EXPECT_EQ(tensors.at("flags").type, dtype::u8);
    EXPECT_EQ(tensors.at("flags").shape, std::vector<std::uint64_t>{3});
  }
}

TEST_F(layer_over_http, gives_what_the_socket_gives) {
  serve();
  const auto x = make_rows(4);
  client_->send_layer(layer_name(), x, layer().hidden);
  const auto reply = client_->receive();
  const auto answer = post(body_of(x));
  const auto bytes = std::as_bytes(std::span(answer.body));
  const auto header = must(model::parse_safetensors(bytes, bytes.size()));
  const auto output = std::ranges::find(header.tensors, "output", &model::tensor_info::name);
  ASSERT_NE(output, header.tensors.end());
  ASSERT_EQ(output->bytes, 4 * reply.output.size());
  EXPECT_EQ(std::memcmp(bytes.data() + output->offset, reply.output.data(), output->bytes), 0);
}

TEST_F(layer_over_http, w14_bad_bodies_get_openai_errors_with_the_field) {
  serve();
  const auto x = make_rows(2);
  struct wrong {
    std::string body;
    int status;
    std::string says;
    std::string param;
  };
  auto poisoned = x;
  poisoned[layer().hidden] = std::numeric_limits<float>::infinity();
  const std::vector<wrong> cases{
      {"", 400, "", "body"},
      {"not safetensors at all", 400, "", "body"},
      {std::string(8, '\xff'), 400, "", "body"},
      {body_of(x).substr(0, 100), 400, "", "body"},
      {body_of(x) + "x", 400, "", "body"},
      {body_of(x, dtype::f32, {}, "other"), 400, "hidden", "hidden"},
      {body_of(poisoned), 400, "row 1 holds NaN or infinity", "hidden"},
      {body_of(x, dtype::f32, {{"degrade", "hope"}}), 400, "wait, substitute, renormalise, fail", "degrade"},
      {body_of(x, dtype::f32, {{"timeout_ms", "-1"}}), 400, "'-1'", "timeout_ms"},
      {body_of(x, dtype::f32, {{"timeout_ms", "soon"}}), 400, "'soon'", "timeout_ms"}};
  for (const auto& c : cases) {
    const auto answer = post(c.body);
    EXPECT_EQ(answer.status, c.status) << answer.body;
    EXPECT_THAT(answer.body, AllOf(HasSubstr(c.says), HasSubstr("\"param\":\"" + c.param + "\"")));
    EXPECT_THAT(answer.body, HasSubstr("\"type\":\"invalid_request_error\""));
  }
  EXPECT_EQ(post(body_of(x)).status, 200);
}

TEST_F(layer_over_http, unknown_layers_are_404_and_name_the_known_ones) {
  serve();
  for (const auto* layer_text : {"99", "x", "encoder.0", "-1"}) {
    const auto answer = post(body_of(make_rows(1)), layer_text);
    EXPECT_EQ(answer.status, 404) << layer_text;
    EXPECT_THAT(answer.body, HasSubstr(layer_name()));
  }
}

TEST_F(layer_over_http, unavailable_is_503_and_the_deadline_504) {
  serve();
  publish({{}});
  auto answer = post(body_of(make_rows(1), dtype::f32, {{"degrade", "fail"}}));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.field("Retry-After"), "1");
  EXPECT_THAT(answer.body, HasSubstr("\"code\":\"unavailable\""));
  answer = post(body_of(make_rows(1), dtype::f32, {{"timeout_ms", "30"}}));
  EXPECT_EQ(answer.status, 504);
}

TEST_F(layer_over_http, p13_a_client_that_leaves_cancels_its_request) {
  serve();
  publish({{}});
  {
    http_client leaver(server_->port());
    const auto body = body_of(make_rows(1));
    ASSERT_TRUE(leaver.send("POST /v1/layers/" + layer_name() + " HTTP/1.1\r\nHost: t\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n" + body));
    await([&] { return metrics_text().find("moe_requests_waiting 1") != std::string::npos; }, "the request waits");
  }
  await([&] { return metrics_text().find("moe_requests_total{outcome=\"aborted\"} 1") != std::string::npos; },
        "the request is cancelled");
}

TEST_F(layer_over_http, lists_the_model) {
  serve();
  const auto answer = http_->call("GET", "/v1/models");
  EXPECT_THAT(answer.body, AllOf(HasSubstr("\"object\":\"list\""), HasSubstr("\"id\":\"mixtral\"")));
}

}  // namespace
}  // namespace troupe::router::testing
