// The safetensors reader and writer, and every refusal of faults.md C1 and C2.
#include "model/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/limits.hpp"

namespace troupe::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::byte> raw_file(std::string_view header, std::size_t data_bytes, std::uint64_t declared_length) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(declared_length >> 8 * i & 0xffU);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

std::vector<std::byte> raw_file(std::string_view header, std::size_t data_bytes) {
  return raw_file(header, data_bytes, header.size());
}

result<safetensors_header> parse(std::span<const std::byte> bytes) { return parse_safetensors(bytes, bytes.size()); }

std::string refusal(std::string_view header, std::size_t data_bytes) {
  auto parsed = parse(raw_file(header, data_bytes));
  return parsed ? "accepted" : parsed.error().message;
}

TEST(safetensors_header, reads_tensors_in_the_order_of_their_data) {
  auto bytes = raw_file(R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},
                            "__metadata__":{"format":"pt"},
                            "a":{"data_offsets":[0,12],"shape":[3,1],"dtype":"F32"}}  )",
                        16);
  auto parsed = parse(bytes);
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->tensors.size(), 2U);
  EXPECT_EQ(parsed->tensors[0].name, "a");
  EXPECT_EQ(parsed->tensors[0].type, dtype::f32);
  EXPECT_THAT(parsed->tensors[0].shape, ElementsAre(3, 1));
  EXPECT_EQ(parsed->tensors[0].offset, parsed->data_begin);
  EXPECT_EQ(parsed->tensors[1].name, "b");
  EXPECT_EQ(parsed->tensors[1].offset, parsed->data_begin + 12);
  EXPECT_EQ(parsed->tensors[1].bytes, 4U);
  EXPECT_EQ(parsed->metadata.at("format"), "pt");
  EXPECT_EQ(parsed->data_begin, bytes.size() - 16);
}

TEST(safetensors_header, accepts_empty_tensors_scalars_and_no_tensors) {
  EXPECT_TRUE(parse(raw_file("{}", 0)));
  auto parsed = parse(raw_file(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
                                   "e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},
                                   "f":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
                               4));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->tensors.size(), 3U);
}

TEST(safetensors_c1, a_file_shorter_than_its_length_field_is_refused) {
  std::vector<std::byte> bytes(7);
  auto parsed = parse(bytes);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, errc::invalid_request);
  EXPECT_THAT(parsed.error().message, HasSubstr("not a safetensors file"));
}

TEST(safetensors_c1, a_header_longer_than_the_file_is_refused) {
  auto parsed = parse(raw_file("{}", 5, 8));
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().message,
              AllOf(HasSubstr("header truncated"), HasSubstr("8 bytes"), HasSubstr("7 follow")));
}

TEST(safetensors_c1, a_header_above_the_limit_is_refused_whatever_the_file_size) {
  auto bytes = raw_file("{}", 0, limits::safetensors_header_bytes_max + 1);
  auto needed = safetensors_head_bytes(bytes, std::uint64_t{1} << 40);
  ASSERT_FALSE(needed);
  EXPECT_THAT(needed.error().message, AllOf(HasSubstr("100000001"), HasSubstr("at most 100000000")));
  EXPECT_FALSE(safetensors_head_bytes(raw_file("{}", 0, ~std::uint64_t{0}), ~std::uint64_t{0}));
}

TEST(safetensors_c1, a_header_that_does_not_begin_with_a_brace_is_refused) {
  EXPECT_THAT(refusal("[]", 0), HasSubstr("byte 8 is not '{'"));
  EXPECT_THAT(refusal(" {}", 0), HasSubstr("byte 8 is not '{'"));
  EXPECT_THAT(refusal("", 0), HasSubstr("byte 8 is not '{'"));
}

TEST(safetensors_c1, a_header_that_is_not_json_is_refused_with_its_offset) {
  EXPECT_THAT(refusal(R"({"a":)", 0), HasSubstr("byte 14"));
  EXPECT_THAT(refusal("{}x", 0), HasSubstr("byte "));
  EXPECT_THAT(refusal("{\"\xff\":1}", 0), HasSubstr("UTF-8"));
}

TEST(safetensors_c1, nesting_is_refused_at_the_first_level_that_the_format_lacks) {
  std::string deep = R"({"a":{"dtype":"F32","shape":)" + std::string(100'000, '[') + "]}}";
  EXPECT_THAT(refusal(deep, 0), HasSubstr("\"a\""));
  EXPECT_THAT(refusal(R"({"a":{"dtype":{}}})", 0), HasSubstr("an object where the format has none"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":{}}})", 0), HasSubstr("an object where the format has none"));
}

constexpr std::string_view f32_of = R"("dtype":"F32","shape":)";

std::string two_tensors(std::string_view a, std::string_view b) {
  return "{\"a\":{" + std::string{f32_of} + std::string{a} + "},\"b\":{" + std::string{f32_of} + std::string{b} + "}}";
}

TEST(safetensors_c2, overlap_is_refused_naming_the_tensor) {
  EXPECT_THAT(refusal(two_tensors(R"([2],"data_offsets":[0,8])", R"([2],"data_offsets":[4,12])"), 12),
              AllOf(HasSubstr("\"b\""), HasSubstr("inside")));
}

TEST(safetensors_c2, a_hole_is_refused_naming_the_tensor) {
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([1],"data_offsets":[8,12])"), 12),
              AllOf(HasSubstr("\"b\""), HasSubstr("hole")));
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([1],"data_offsets":[4,8])"), 12),
              AllOf(HasSubstr("end at byte 8"), HasSubstr("the file has 12")));
}

TEST(safetensors_c2, an_end_beyond_the_file_is_refused_naming_the_tensor) {
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([2],"data_offsets":[4,12])"), 11),
              AllOf(HasSubstr("\"b\""), HasSubstr("ends at byte 12"), HasSubstr("the file has 11")));
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([1],"data_offsets":[4,2])"), 4),
              HasSubstr("before it begins"));
}

TEST(safetensors_c2, shape_times_dtype_must_be_the_bytes) {
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([3],"data_offsets":[4,12])"), 12),
              AllOf(HasSubstr("\"b\""), HasSubstr("takes 12 bytes"), HasSubstr("hold 8")));
}

TEST(safetensors_c2, integer_overflow_is_refused_naming_the_tensor) {
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([4294967296,4294967296],"data_offsets":[4,4])"), 4),
              AllOf(HasSubstr("\"b\""), HasSubstr("overflow")));
  EXPECT_THAT(refusal(two_tensors(R"([1],"data_offsets":[0,4])", R"([18446744073709551616],"data_offsets":[4,4])"), 4),
              HasSubstr("the number 18446744073709551616"));
  EXPECT_THAT(refusal(two_tensors(R"([-1],"data_offsets":[0,4])", R"([1],"data_offsets":[4,8])"), 8),
              HasSubstr("the number -1"));
}

TEST(safetensors_c2, duplicate_keys_are_refused_wherever_they_are) {
  std::string a = R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  EXPECT_THAT(refusal("{" + a + "," + a + "}", 0), HasSubstr("duplicate key \"a\""));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0),
              AllOf(HasSubstr("\"a\""), HasSubstr("duplicate key \"dtype\"")));
  EXPECT_THAT(refusal(R"({"__metadata__":{"x":"1","x":"2"}})", 0), HasSubstr("duplicate key \"x\""));
  EXPECT_THAT(refusal(R"({"__metadata__":{},"__metadata__":{}})", 0), HasSubstr("duplicate key \"__metadata__\""));
}

TEST(safetensors_c2, unknown_and_missing_parts_of_a_tensor_are_refused_by_name) {
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F7","shape":[0],"data_offsets":[0,0]}})", 0),
              AllOf(HasSubstr("\"a\""), HasSubstr("unknown dtype \"F7\"")));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[0]}})", 0), AllOf(HasSubstr("\"a\""), HasSubstr("lacks")));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}})", 0),
              HasSubstr("unknown key \"x\""));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0,0]}})", 0), HasSubstr("3 numbers"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4), HasSubstr("the number 1.0"));
  EXPECT_THAT(refusal(R"({"a":null})", 0), HasSubstr("null"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":true,"data_offsets":[0,4]}})", 4), HasSubstr("a boolean"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"x":1}})", 0), HasSubstr("a number"));
}

TEST(safetensors_writer, gives_back_what_it_was_given_and_aligns_every_tensor) {
  std::vector<std::byte> bytes(24);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  std::vector<named_tensor> tensors{{"flags", {dtype::u8, {3}, std::span{bytes}.first(3)}},
                                    {"output", {dtype::bf16, {1, 5}, std::span{bytes}.subspan(4, 10)}},
                                    {"big", {dtype::f64, {1}, std::span{bytes}.subspan(8, 8)}},
                                    {"scalar", {dtype::f32, {}, std::span{bytes}.subspan(16, 4)}},
                                    {"none", {dtype::f32, {0, 4}, {}}}};
  auto document = write_safetensors(tensors, {{"epoch", "7"}, {"quote", "\"\\\n"}});
  auto parsed = parse(document);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->metadata, (std::map<std::string, std::string>{{"epoch", "7"}, {"quote", "\"\\\n"}}));
  ASSERT_EQ(parsed->tensors.size(), tensors.size());
  EXPECT_EQ(parsed->data_begin % 8, 0U);
  for (const auto& written : tensors) {
    auto read = std::ranges::find(parsed->tensors, written.name, &tensor_info::name);
    ASSERT_NE(read, parsed->tensors.end());
    EXPECT_EQ(read->type, written.tensor.type);
    EXPECT_EQ(read->shape, written.tensor.shape);
    EXPECT_EQ(read->offset % bytes_per_element(read->type), 0U) << written.name;
    EXPECT_TRUE(std::ranges::equal(std::span{document}.subspan(read->offset, read->bytes), written.tensor.bytes));
  }
}

TEST(safetensors_writer, writes_an_empty_document_that_can_be_read) {
  auto document = write_safetensors({}, {});
  auto parsed = parse(document);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_TRUE(parsed->tensors.empty());
}

}  // namespace
}  // namespace troupe::model
