// Messages as other processes might send them: round trips, and every way to get them wrong (faults.md W1-W8, N13).
#include "common/wire/framing.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "common/limits.hpp"
#include "proto/client_router.pb.h"
#include "proto/node_coordinator.pb.h"
#include "proto/router_expert.pb.h"
#include "wire_fixture.hpp"

namespace troupe::wire {
namespace {

using bytes = std::vector<std::byte>;

bytes to_bytes(std::string_view text) {
  const auto span = std::as_bytes(std::span(text));
  return {span.begin(), span.end()};
}

bytes encode(const google::protobuf::MessageLite& envelope, checksum_kind kind = checksum_kind::xxh3) {
  auto part = must(encode_envelope_part(kind, envelope));
  const auto span = std::as_const(part).bytes();
  return {span.begin(), span.end()};
}

proto::RouterToExpert run_envelope() {
  proto::RouterToExpert envelope;
  auto& run = *envelope.mutable_run();
  run.set_request_id(7);
  run.set_attempt(1);
  run.add_experts()->set_expert(3);
  return envelope;
}

proto::Tensor tensor_of(proto::DType type, std::initializer_list<std::uint64_t> shape, const bytes& content) {
  proto::Tensor tensor;
  tensor.set_dtype(type);
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  tensor.set_part(1);
  tensor.set_checksum(checksum(checksum_kind::xxh3, content));
  return tensor;
}

result<tensor_view> decode_one(const proto::Tensor& tensor, const bytes& content) {
  const std::span<const std::byte> part(content);
  return decode_tensor(tensor, std::span(&part, 1), checksum_kind::xxh3, "hidden");
}

class framing_over : public testing::TestWithParam<std::string> {
 protected:
  std::string address(const char* name) const { return GetParam() == "ipc" ? folder_.ipc(name) : "tcp://127.0.0.1:0"; }
  temporary_folder folder_;
};

TEST_P(framing_over, carries_envelope_and_tensors_both_ways) {
  auto ctx = must(context::make());
  auto router = must(socket::open(ctx, socket_kind::router));
  auto dealer = must(socket::open(ctx, socket_kind::dealer));
  must(dealer.connect(must(router.bind(address("x")))));

  for (const auto kind : {checksum_kind::xxh3, checksum_kind::crc32}) {
    auto envelope = run_envelope();
    const std::vector<float> rows(2 * 4096, 1.5F);
    const std::vector<std::int32_t> index{0, 1, 1};
    const auto owner = std::make_shared<std::vector<float>>(rows);
    ASSERT_TRUE(eventually([&] {
      outgoing_message message(kind);
      must(message.attach(*envelope.mutable_run()->mutable_hidden(), dtype::f32, std::array<std::uint64_t, 2>{2, 4096},
                          std::as_bytes(std::span(*owner)), owner));
      must(message.attach(*envelope.mutable_run()->mutable_row_index(), dtype::i32, std::array<std::uint64_t, 1>{3},
                          std::as_bytes(std::span(index))));
      return message.send(dealer, envelope).has_value();
    }));
    auto got = receive_within(router);
    ASSERT_TRUE(got);
    ASSERT_TRUE(got->message) << got->message.error().message;
    EXPECT_EQ(got->message->kind(), kind);
    proto::RouterToExpert parsed;
    must(got->message->parse(parsed));
    EXPECT_EQ(parsed.run().request_id(), 7U);
    // A view outlives the move of its message.
    auto hidden = must(got->message->tensor(parsed.run().hidden(), "hidden"));
    auto moved = std::move(*got->message);
    EXPECT_EQ(std::memcmp(hidden.bytes.data(), rows.data(), rows.size() * sizeof(float)), 0);
    auto ids = must(moved.tensor(parsed.run().row_index(), "row_index"));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(ids.bytes.data()) % alignof(std::int32_t), 0U);
    EXPECT_EQ(std::memcmp(ids.bytes.data(), index.data(), sizeof(std::int32_t) * index.size()), 0);

    proto::ExpertToRouter answer;
    answer.mutable_done()->set_request_id(7);
    must(outgoing_message(moved.kind()).send(router, answer, got->routing_id));
    auto back = receive_within(dealer);
    ASSERT_TRUE(back && back->message);
    proto::ExpertToRouter done;
    must(back->message->parse(done));
    EXPECT_EQ(done.done().request_id(), 7U);
  }
}
INSTANTIATE_TEST_SUITE_P(transports, framing_over, testing::Values("ipc", "tcp"),
                         [](const auto& chosen) { return chosen.param; });

TEST(framing, lets_two_tensors_name_one_part) {
  proto::LayerReply reply;
  outgoing_message message;
  const bytes content(8);
  must(message.attach(*reply.mutable_output(), dtype::f32, std::array<std::uint64_t, 2>{1, 2}, content));
  share_part(reply.output(), *reply.mutable_routed_output());
  EXPECT_EQ(message.parts(), 1U);
  EXPECT_EQ(reply.routed_output().part(), 1U);
  EXPECT_TRUE(decode_one(reply.routed_output(), content));
}

TEST(framing, refuses_to_attach_what_does_not_fit) {
  proto::Tensor tensor;
  outgoing_message message;
  const bytes content(8);
  const auto wrong = message.attach(tensor, dtype::f32, std::array<std::uint64_t, 1>{3}, content);
  EXPECT_EQ(wrong.error().code, errc::invalid_request);
  for (std::size_t i = 0; i + 1 < limits::parts_per_message_max; ++i) {
    EXPECT_TRUE(message.attach(tensor, dtype::f32, std::array<std::uint64_t, 1>{2}, content));
  }
  const auto many = message.attach(tensor, dtype::f32, std::array<std::uint64_t, 1>{2}, content);
  EXPECT_EQ(many.error().code, errc::too_large);
}

TEST(framing, reports_a_peer_that_is_not_there) {
  auto ctx = must(context::make());
  auto router = must(socket::open(ctx, socket_kind::router));
  must(router.bind("inproc://nobody"));
  EXPECT_EQ(outgoing_message().send(router, run_envelope(), "gone").error().code, errc::unavailable);
  temporary_folder folder;
  auto dealer = must(socket::open(ctx, socket_kind::dealer));
  must(dealer.connect(folder.ipc("nobody")));
  EXPECT_EQ(outgoing_message().send(dealer, run_envelope()).error().code, errc::unavailable);
}

// libzmq learns that its queue was read only when it looks, which a send does once per millisecond or so.
TEST(framing, does_not_take_a_queue_for_full_that_has_been_read) {
  temporary_folder folder;
  auto ctx = must(context::make());
  auto router = must(socket::open(ctx, socket_kind::router));
  must(router.bind(folder.ipc("read")));
  auto dealer = must(socket::open(ctx, socket_kind::dealer));
  must(dealer.connect(folder.ipc("read")));
  ASSERT_TRUE(eventually([&] { return outgoing_message().send(dealer, run_envelope()).has_value(); }));
  auto hello = receive_within(router);
  ASSERT_TRUE(hello);
  const auto peer = hello->routing_id;
  const deadline until;
  for (int bursts = 0; bursts < 8; ++bursts) {
    constexpr int burst = limits::queued_messages_max / 4;
    for (int i = 0; i < burst; ++i) {
      must(outgoing_message().send(dealer, run_envelope()));
      must(outgoing_message().send(router, run_envelope(), peer));
    }
    // No wait: it would let libzmq look.
    for (int at_router = 0, at_dealer = 0; at_router < burst || at_dealer < burst;) {
      at_router += receive(router) ? 1 : 0;
      at_dealer += receive(dealer) ? 1 : 0;
      ASSERT_FALSE(until.passed());
    }
  }
}

// -- malformed input ----------------------------------------------------------------------------------------------

// Sends raw parts, as a hostile or broken peer may.
void send_raw(socket& to, const std::vector<bytes>& parts) {
  ASSERT_TRUE(eventually([&] {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const int more = i + 1 < parts.size() ? ZMQ_SNDMORE : 0;
      if (zmq_send(to.handle(), parts[i].data(), parts[i].size(), ZMQ_DONTWAIT | more) < 0) return false;
    }
    return true;
  }));
}

struct connected_pair {
  std::shared_ptr<context> ctx = must(context::make());
  socket router = must(socket::open(ctx, socket_kind::router));
  socket dealer = must(socket::open(ctx, socket_kind::dealer));
  connected_pair() { must(dealer.connect(must(router.bind("tcp://127.0.0.1:0")))); }
};

TEST(framing_W1_random_bytes, are_refused_and_the_socket_goes_on) {
  connected_pair link;
  std::uint32_t state = 12345;
  for (int round = 0; round < 200; ++round) {
    bytes noise(round);
    for (auto& b : noise) b = static_cast<std::byte>((state = state * 1664525U + 1013904223U) >> 24);
    send_raw(link.dealer, {noise});
    auto got = receive_within(link.router);
    ASSERT_TRUE(got);
    EXPECT_EQ(got->message.error().code, errc::invalid_request);
  }
  send_when_connected(link.dealer, run_envelope());
  auto got = receive_within(link.router);
  ASSERT_TRUE(got);
  EXPECT_TRUE(got->message);
}

TEST(framing_W2_declared_size, is_checked_before_anything_is_allocated) {
  // A tensor that claims 4 GiB over a part of 8 bytes, and an envelope whose Protobuf lengths claim the same.
  const bytes content(8);
  auto huge = tensor_of(proto::U8, {std::uint64_t{1} << 32}, content);
  EXPECT_EQ(decode_one(huge, content).error().code, errc::invalid_request);
  proto::RouterToExpert target;
  const bytes length_4g{std::byte{0x12}, std::byte{0xff}, std::byte{0xff},
                        std::byte{0xff}, std::byte{0xff}, std::byte{0x0f}};
  EXPECT_EQ(parse_envelope(length_4g, target).error().code, errc::invalid_request);
}

TEST(framing_W3_many_parts, are_drained_and_refused_as_one_message) {
  connected_pair link;
  std::vector<bytes> parts(200'000, to_bytes("x"));
  parts.front() = encode(run_envelope());
  send_raw(link.dealer, parts);
  auto got = receive_within(link.router);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->message.error().code, errc::too_large);
  EXPECT_NE(got->message.error().message.find("200000 parts"), std::string::npos);
  send_when_connected(link.dealer, run_envelope());
  got = receive_within(link.router);
  ASSERT_TRUE(got);
  EXPECT_TRUE(got->message) << "the next message must not be mistaken for the rest of the refused one";
}

TEST(framing_W4_oversize, is_refused_by_the_sender_with_both_numbers) {
  proto::Tensor tensor;
  const bytes one(1);
  // Not allocated: the size is looked at before the bytes.
  const std::span<const std::byte> too_much(one.data(), limits::tensor_bytes_max + 1);
  const std::array<std::uint64_t, 1> shape{limits::tensor_bytes_max + 1};
  const auto refused = outgoing_message().attach(tensor, dtype::u8, shape, too_much, nullptr);
  EXPECT_EQ(refused.error().code, errc::too_large);
  EXPECT_NE(refused.error().message.find(std::to_string(limits::tensor_bytes_max)), std::string::npos);

  proto::InfoReply large;
  large.set_json(std::string(limits::envelope_bytes_max, 'x'));
  EXPECT_EQ(encode_envelope_part(checksum_kind::xxh3, large).error().code, errc::too_large);
}

TEST(framing_W5_envelope, that_is_truncated_or_too_long_is_refused) {
  auto whole = encode(run_envelope());
  const auto envelope = std::span<const std::byte>(whole).subspan(preamble_bytes);
  proto::RouterToExpert target;
  ASSERT_TRUE(parse_envelope(envelope, target));
  for (std::size_t keep = 0; keep < envelope.size(); ++keep) {
    EXPECT_EQ(parse_envelope(envelope.first(keep), target).error().code, errc::invalid_request) << keep;
  }
  bytes longer(envelope.begin(), envelope.end());
  longer.push_back(std::byte{0});
  EXPECT_FALSE(parse_envelope(longer, target));
}

TEST(framing_W5_envelope, with_an_unknown_enum_number_is_refused_with_its_path) {
  proto::RouterToExpert envelope = run_envelope();
  envelope.mutable_run()->mutable_hidden()->set_dtype(static_cast<proto::DType>(77));
  const auto refused = parse_envelope(to_bytes(envelope.SerializeAsString()), envelope);
  EXPECT_EQ(refused.error().code, errc::invalid_request);
  EXPECT_NE(refused.error().message.find("RouterToExpert.run.hidden.dtype"), std::string::npos);

  proto::NodeToCoordinator report;
  report.mutable_inventory()->add_slots();
  report.mutable_inventory()->add_slots()->set_state(static_cast<proto::SlotState>(9));
  const auto second = parse_envelope(to_bytes(report.SerializeAsString()), report);
  EXPECT_NE(second.error().message.find("NodeToCoordinator.inventory.slots[1].state"), std::string::npos);
}

TEST(framing_W5_envelope, with_a_oneof_given_twice_is_refused_with_its_path) {
  proto::RouterToExpert run = run_envelope();
  proto::RouterToExpert hello;
  hello.mutable_hello()->set_node("x");
  const auto twice = to_bytes(run.SerializeAsString() + hello.SerializeAsString());
  const auto refused = parse_envelope(twice, run);
  EXPECT_EQ(refused.error().code, errc::invalid_request);
  EXPECT_NE(refused.error().message.find("RouterToExpert.hello"), std::string::npos);
  EXPECT_NE(refused.error().message.find("'body'"), std::string::npos);

  // Inside a submessage: RouterToExpert.run (2) { hidden (8) { part: 1, shared {} } }.
  proto::Tensor part;
  part.set_part(1);
  proto::Tensor range;
  range.mutable_shared();
  const auto field = [](char tag, const std::string& payload) {
    return std::string{tag, static_cast<char>(payload.size())} + payload;
  };
  const auto nested = field(0x12, field(0x42, part.SerializeAsString() + range.SerializeAsString()));
  const auto inner = parse_envelope(to_bytes(nested), run);
  EXPECT_NE(inner.error().message.find("RouterToExpert.run.hidden.shared"), std::string::npos);
}

TEST(framing_W5_envelope, without_a_body_is_refused_and_unknown_fields_are_ignored) {
  proto::RouterToExpert target;
  const auto empty = parse_envelope({}, target);
  EXPECT_NE(empty.error().message.find("RouterToExpert.body"), std::string::npos);
  // Field 99, which a newer peer may know, beside a body that we know; then alone.
  const std::string unknown("\x9a\x06\x01x", 4);
  EXPECT_TRUE(parse_envelope(to_bytes(run_envelope().SerializeAsString() + unknown), target));
  EXPECT_NE(parse_envelope(to_bytes(unknown), target).error().message.find("does not know"), std::string::npos);
}

TEST(framing_W6_nesting, is_limited_in_depth) {
  // Unknown groups nest without any type: start-group tags of field 99.
  bytes deep;
  for (int i = 0; i < 10'000; ++i) {
    deep.push_back(std::byte{0x9b});
    deep.push_back(std::byte{0x06});
  }
  proto::RouterToExpert target;
  EXPECT_EQ(parse_envelope(deep, target).error().code, errc::invalid_request);
}

TEST(framing_W7_shape, must_fit_the_bytes_and_the_error_has_the_numbers) {
  const bytes content(500);
  const auto refused = decode_one(tensor_of(proto::F32, {2, 64}, content), content);
  EXPECT_EQ(refused.error().code, errc::invalid_request);
  for (const char* text : {"hidden", "[2, 64]", "512", "500"}) {
    EXPECT_NE(refused.error().message.find(text), std::string::npos) << text;
  }
  for (const auto& shape : {std::initializer_list<std::uint64_t>{0, 64},
                            {std::numeric_limits<std::uint64_t>::max(), 2},
                            {std::uint64_t{1} << 62, 4},
                            {},
                            {1, 1, 1, 1, 125}}) {
    EXPECT_EQ(decode_one(tensor_of(proto::F32, shape, content), content).error().code, errc::invalid_request);
  }
  const bytes right(512);
  EXPECT_EQ(must(decode_one(tensor_of(proto::F32, {2, 64}, right), right)).shape, (std::vector<std::uint64_t>{2, 64}));
}

TEST(framing_W7_part, must_exist) {
  const bytes content(4);
  auto tensor = tensor_of(proto::F32, {1}, content);
  for (const std::uint32_t part : {0U, 2U, 4'000'000'000U}) {
    tensor.set_part(part);
    EXPECT_EQ(decode_one(tensor, content).error().code, errc::invalid_request);
  }
  tensor.clear_place();
  EXPECT_EQ(decode_one(tensor, content).error().code, errc::invalid_request);
  tensor.mutable_shared()->set_bytes(4);
  EXPECT_EQ(decode_one(tensor, content).error().code, errc::invalid_request);
}

TEST(framing_W7_shared_range, must_lie_inside_the_segment) {
  const bytes segment(1024);
  proto::Tensor tensor;
  const std::array<std::uint64_t, 1> shape{16};
  for (const std::uint64_t offset :
       std::initializer_list<std::uint64_t>{964, 1024, 1025, std::numeric_limits<std::uint64_t>::max() - 7,
                                            std::numeric_limits<std::uint64_t>::max(), 4}) {
    describe_shared(tensor, dtype::f32, shape, offset, 64);
    EXPECT_EQ(decode_shared_tensor(tensor, segment, "output").error().code, errc::invalid_request) << offset;
  }
  describe_shared(tensor, dtype::f32, shape, 960, 64);
  EXPECT_EQ(must(decode_shared_tensor(tensor, segment, "output")).bytes.data(), segment.data() + 960);
  describe_shared(tensor, dtype::f32, shape, 0, 32);
  EXPECT_FALSE(decode_shared_tensor(tensor, segment, "output"));
}

TEST(framing_W8_dtype, outside_the_list_is_refused_naming_the_list) {
  const bytes content(4);
  for (const int type : {0, 6, 99, -1}) {
    const auto refused = decode_one(tensor_of(static_cast<proto::DType>(type), {1}, content), content);
    EXPECT_EQ(refused.error().code, errc::invalid_request);
    EXPECT_NE(refused.error().message.find("F32, F16, BF16, I32 or U8"), std::string::npos);
  }
}

TEST(framing_W8_preamble, with_unknown_flags_or_checksum_kind_is_refused) {
  for (const std::size_t position : {6U, 7U}) {
    auto part = encode(run_envelope());
    part[position] = std::byte{9};
    EXPECT_EQ(decode_envelope_part(part).error().code, errc::invalid_request);
  }
}

TEST(framing_W11_version, of_another_major_is_refused_with_both_versions_and_the_upgrade_order) {
  auto part = encode(run_envelope());
  part[4] = std::byte{3};
  part[5] = std::byte{4};
  const auto refused = decode_envelope_part(part);
  EXPECT_EQ(refused.error().code, errc::wrong_version);
  const auto own = std::to_string(limits::wire_version_major) + "." + std::to_string(limits::wire_version_minor);
  for (const auto& text : {std::string("3.4"), own, std::string("upgrade order")}) {
    EXPECT_NE(refused.error().message.find(text), std::string::npos) << text;
  }
  part[4] = std::byte{limits::wire_version_major};
  EXPECT_EQ(must(decode_envelope_part(part)).minor, 4) << "a newer minor version is understood";
}

TEST(framing_N13_flipped_bits, are_found_in_every_byte_of_envelope_and_tensor) {
  for (const auto kind : {checksum_kind::xxh3, checksum_kind::crc32}) {
    auto part = encode(run_envelope(), kind);
    ASSERT_TRUE(decode_envelope_part(part));
    for (std::size_t i = preamble_bytes; i < part.size(); ++i) {
      part[i] ^= std::byte{0x10};
      EXPECT_EQ(decode_envelope_part(part).error().code, errc::corrupt) << i;
      part[i] ^= std::byte{0x10};
    }
  }
  bytes content(256);
  const auto tensor = tensor_of(proto::F32, {64}, content);
  for (std::size_t i = 0; i < content.size(); ++i) {
    content[i] ^= std::byte{1};
    EXPECT_EQ(decode_one(tensor, content).error().code, errc::corrupt) << i;
    content[i] ^= std::byte{1};
  }
}

TEST(framing, uses_the_checksums_that_other_languages_have) {
  // Known answers: CRC-32 of "123456789" (the usual check value) and XXH3-64 of nothing.
  EXPECT_EQ(checksum(checksum_kind::crc32, to_bytes("123456789")), 0xcbf43926U);
  EXPECT_EQ(checksum(checksum_kind::xxh3, {}), 0x2d06800538d394c2U);
}

}  // namespace
}  // namespace troupe::wire
