#include "compute/packing.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace troupe::compute {
namespace {

float element(const packed_matrix& matrix, const std::vector<std::byte>& packed, std::uint32_t o, std::uint32_t i) {
  std::size_t panel_begin = 0;
  for (std::uint32_t p = 0; p < o / panel_width; ++p) panel_begin += matrix.bytes_of(p);
  std::size_t width = matrix.width(o / panel_width);
  std::size_t c = o % panel_width;
  std::size_t at = matrix.form == panel_form::rows      ? c * matrix.inputs() + i
                   : matrix.form == panel_form::k_major ? i * width + c
                                                        : (i / 2 * width + c) * 2 + i % 2;
  if (matrix.type == dtype::f32) {
    float value = 0;
    std::memcpy(&value, packed.data() + panel_begin + at * 4, 4);
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, packed.data() + panel_begin + at * 2, 2);
  return bf16_to_f32(bits);
}

TEST(packing, every_form_holds_every_weight_and_zeros_behind) {
  for (auto form : {panel_form::rows, panel_form::k_major, panel_form::k_pairs}) {
    for (auto type : {dtype::f32, dtype::bf16}) {
      for (auto [out, in] : {std::pair{64U, 32U}, {1U, 1U}, {70U, 33U}, {127U, 100U}, {130U, 16U}}) {
        std::vector<float> weights(std::size_t{out} * in);
        for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 251) + 1;  // exact in bf16
        packed_matrix matrix{.out = out, .in = in, .type = type, .form = form};
        matrix_piece piece{.type = dtype::f32, .out = out, .in = in, .stride_out = in, .stride_in = 1};
        const auto* bytes = reinterpret_cast<const std::byte*>(weights.data());
        std::vector<std::byte> packed(matrix.bytes(), std::byte{0xff});
        std::size_t offset = 0;
        for (std::uint32_t p = 0; p < matrix.panels(); ++p) {
          pack_panel(matrix, p, piece, bytes, packed.data() + offset);
          offset += matrix.bytes_of(p);
        }
        ASSERT_EQ(offset, matrix.bytes());
        for (std::uint32_t o = 0; o < matrix.outputs(); ++o) {
          for (std::uint32_t i = 0; i < matrix.inputs(); ++i) {
            float expected = o < out && i < in ? weights[std::size_t{o} * in + i] : 0.0F;
            ASSERT_EQ(element(matrix, packed, o, i), expected) << o << ", " << i;
          }
        }
      }
    }
  }
}

TEST(packing, what_keeps_its_type_comes_back_as_it_was) {
  for (auto form : {panel_form::rows, panel_form::k_major, panel_form::k_pairs}) {
    for (auto type : {dtype::f32, dtype::bf16}) {
      for (auto [out, in] : {std::pair{64U, 32U}, {1U, 1U}, {70U, 33U}, {68U, 40U}, {132U, 96U}, {66U, 64U}}) {
        // Every second row of a larger tensor, behind some other bytes.
        const auto size = bytes_per_element(type);
        matrix_piece piece{
            .offset = 6, .type = type, .out = out, .in = in, .first = in, .stride_out = 2 * in, .stride_in = 1};
        std::vector<std::byte> bundle(6 + std::size_t{2} * out * in * size);
        for (std::size_t o = 0; o < out; ++o) {
          for (std::size_t i = 0; i < in; ++i) {
            const auto value = static_cast<float>((o * in + i) % 251 + 1);
            convert(dtype::f32, reinterpret_cast<const std::byte*>(&value), type,
                    bundle.data() + 6 + piece.index(o, i) * size, 1);
          }
        }
        packed_matrix matrix{.out = out, .in = in, .type = type, .form = form};
        std::vector<std::byte> packed(matrix.bytes(), std::byte{0xff}), back(bundle.size());
        std::size_t offset = 0;
        for (std::uint32_t p = 0; p < matrix.panels(); ++p) {
          pack_panel(matrix, p, piece, bundle.data(), packed.data() + offset);
          unpack_panel(matrix, p, piece, packed.data() + offset, back.data());
          offset += matrix.bytes_of(p);
        }
        EXPECT_EQ(back, bundle) << out << " x " << in;
        for (std::uint32_t o = 0; o < matrix.outputs(); ++o) {
          for (std::uint32_t i = 0; i < matrix.inputs(); ++i) {
            const float expected = o < out && i < in ? read_element(piece, bundle.data(), o, i) : 0.0F;
            ASSERT_EQ(element(matrix, packed, o, i), expected) << out << " x " << in << ": " << o << ", " << i;
          }
        }
      }
    }
  }
}

TEST(packing, padding_stays_below_one_unit) {
  packed_matrix matrix{.out = 2881, .in = 2881, .type = dtype::bf16, .form = panel_form::k_pairs};
  EXPECT_EQ(matrix.outputs(), 2896U);
  EXPECT_EQ(matrix.inputs(), 2912U);
  EXPECT_EQ(matrix.panels(), 46U);
  EXPECT_EQ(matrix.width(45), 16U);
}

TEST(packing, parts_of_an_expert_follow_each_other) {
  auto expert = packed_expert::of({100, 70, model::activation::swiglu, true}, dtype::bf16, panel_form::k_pairs);
  EXPECT_EQ(expert.first_offset(0), 0U);
  EXPECT_EQ(expert.first_offset(1), 2U * 64 * 128 * 2);
  EXPECT_EQ(expert.second_offset(0), 2U * 80 * 128 * 2);
  EXPECT_EQ(expert.gate_bias_offset(), expert.second_offset(0) + 112U * 96 * 2);
  EXPECT_EQ(expert.up_bias_offset(), expert.gate_bias_offset() + 80 * 4);
  EXPECT_EQ(expert.bytes(), expert.up_bias_offset() + 80 * 4 + 112 * 4);
}

}  // namespace
}  // namespace troupe::compute
